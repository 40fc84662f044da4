"""The masks that a dialogue shows its policy: asked of the segmenter pool while the dialogue waits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rewards.segmenter.types import State
from rollout.conversation import Conversation
from rollout.episode import Draw
from rollout.types import RLE, Episode, Sample

Ask = Callable[[Any], Awaitable[Any]]
"""A request to the pool's answer, see `rewards.pool.desk`."""
States = Callable[[Episode, Conversation], Awaitable[list[State | None]]]
"""The ``[SEG]`` states of a dialogue that is not over."""


async def no_states(answer: Episode, conversation: Conversation) -> list[State | None]:
    """For answers that hold none."""
    return [None] * len(answer.turns)


def drawer(scoring: Any, sample: Sample, ask: Ask, states: States = no_states) -> Draw:
    """What `rollout.episode.roll_out` asks for masks with: evaluation's request, of the frames that are to be shown and
    the keyframe alone, so that the pause is short.

    ``scoring`` is that of the environment (`verl_ext.scoring.scoring_of`). The request never holds ground truth.
    """
    blind = replace(sample, masklets=None)

    async def draw(answer: Episode, conversation: Conversation, frames: Sequence[int]) -> Mapping[int, RLE]:
        whole = scoring.mask_request(blind, answer, await states(answer, conversation))
        seen = sorted({*frames, whole.keyframe})
        found = await ask(replace(whole, frames=seen, masklets=None, with_masks=True))
        return {t: rle for t, rle in zip(seen, found.rles, strict=True) if t in frames}

    return draw
