"""What a method asks the segmenter pool for, and what it makes of the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rewards.segmenter.types import Request, State
from rollout.types import RLE, Episode, Sample


class Scoring(Protocol):
    """What one kind of dialogue is scored by."""

    columns: tuple[str, ...]
    """What the actor's log-prob pass hands over for it."""
    kept_as: Mapping[str, str]
    """Columns that later passes would overwrite -> the name under which the update finds them."""
    combines: bool
    """Whether replies hold two prompts for the segmenter, of which one or both draw."""
    verifies: bool
    """Whether the policy sees its own masks and judges them: then ``first_request`` is asked too, and its answer handed
    to ``rewards`` (`verl_ext.scoring.verified`)."""
    needs_pool: bool
    """Whether its rewards ask the segmenter at all."""

    def states(self, episodes: Sequence[Episode], columns: Mapping[str, Any]) -> list[list[State | None]]:
        """Per episode and turn, the ``[SEG]`` state; all None for replies without masks of their own."""
        ...

    def reward_request(
        self, sample: Sample, episode: Episode, states: Sequence[State | None], with_masks: bool = False
    ) -> Request | None:
        """What to ask the pool before rewards can be computed; None if nothing.

        ``with_masks``: the answer shall hold the masks as well as what they score.
        """
        ...

    def propagation_request(self, sample: Sample, episode: Episode, states: Sequence[State | None]) -> Request | None:
        """What to ask for rewards of masks after propagation; None if no reward is, or nothing was answered."""
        ...

    def first_request(self, sample: Sample, episode: Episode, states: Sequence[State | None]) -> Request | None:
        """Where the policy saw its own masks: what to ask about the answer before that."""
        ...

    def masks(self, episode: Episode, answer: Any) -> list[dict[int, RLE]]:
        """Per turn, the masks of an answer ``with_masks`` by clip frame; empty where the turn has none."""
        ...

    def rewards(
        self, sample: Sample, episode: Episode, answer: Any, propagated: Any = None, first: Any = None
    ) -> dict[str, float]:
        """Every reward by name and their weighted ``total``, from the pool's answers to the requests (None where it was
        not asked)."""
        ...

    def ious(self, answer: Any) -> dict[str, float]:
        """Mean IoUs of an answer, for the log."""
        ...

    def mask_request(self, sample: Sample, episode: Episode, states: Sequence[State | None]) -> Request:
        """The request whose answer's ``rles`` are the predicted masks of all frames, and ``objects`` the same object by
        object (None: one object)."""
        ...
