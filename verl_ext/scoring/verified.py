"""Scoring of dialogues with a verification turn: what stands is scored by the dialogue's own scoring.

Rewards of form, keyframe, boxes and masks judge the first answer, those of propagated masks the one that stands, which
is also what evaluation draws; ``verification_change`` compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rewards.compose import compute_rewards
from rewards.segmenter.types import BoxScores, PropagatedMasks, Request, State
from rewards.types import AnyRewardInput, CombinedRewardInput, Variant, Verification
from rollout.types import RLE, Episode, Sample, Verdict
from rollout.verification import first_answer, last_answer, turns_of_last_answer
from verl_ext.recipe.objective import PropagationRecipe
from verl_ext.scoring.propagation import propagated_scores

REWARD = "verification_change"
CHANGED = (Verdict.CORRECTED, Verdict.NO_TARGET)


@dataclass
class VerifiedScoring:
    """See :class:`verl_ext.scoring.rollouts.Scoring`."""

    inner: Any
    """The scoring of the dialogue that is verified."""
    weights: Mapping[str, float]
    variant: Variant
    verifies: bool = True

    @property
    def columns(self) -> tuple[str, ...]:
        return self.inner.columns  # type: ignore[no-any-return]

    @property
    def kept_as(self) -> Mapping[str, str]:
        return self.inner.kept_as  # type: ignore[no-any-return]

    @property
    def combines(self) -> bool:
        return self.inner.combines  # type: ignore[no-any-return]

    @property
    def needs_pool(self) -> bool:
        return True

    @property
    def propagation(self) -> PropagationRecipe:
        return self.inner.propagation  # type: ignore[no-any-return]

    @propagation.setter
    def propagation(self, value: PropagationRecipe) -> None:
        self.inner.propagation = value

    def states(self, episodes: Sequence[Episode], columns: Mapping[str, Any]) -> list[list[State | None]]:
        return self.inner.states(episodes, columns)  # type: ignore[no-any-return]

    def reward_request(
        self, sample: Sample, episode: Episode, states: Sequence[State | None], with_masks: bool = False
    ) -> Request | None:
        first = first_answer(episode)
        return self.inner.reward_request(sample, first, states[: len(first.turns)], with_masks)  # type: ignore[no-any-return]

    def propagation_request(self, sample: Sample, episode: Episode, states: Sequence[State | None]) -> Request | None:
        """Of the answer that stands."""
        return self.inner.propagation_request(sample, last_answer(episode), standing(episode, states))  # type: ignore[no-any-return]

    def first_request(self, sample: Sample, episode: Episode, states: Sequence[State | None]) -> Request | None:
        """Of the first answer, where another one stands and a reward compares them."""
        if episode.verdict not in CHANGED or REWARD not in self.weights:
            return None
        first = first_answer(episode)
        return self.inner.propagation_request(sample, first, states[: len(first.turns)])  # type: ignore[no-any-return]

    def masks(self, episode: Episode, answer: Any) -> list[dict[int, RLE]]:
        return self.inner.masks(first_answer(episode), answer)  # type: ignore[no-any-return]

    def rewards(
        self,
        sample: Sample,
        episode: Episode,
        answer: Any,
        propagated: PropagatedMasks | BoxScores | None = None,
        first: PropagatedMasks | BoxScores | None = None,
    ) -> dict[str, float]:
        before = propagated_scores(sample, first if episode.verdict in CHANGED else propagated)
        x = self.inner.reward_input(sample, first_answer(episode), answer, propagated)
        return compute_rewards(with_verdict(x, Verification(before, episode.verdict)), self.weights, self.variant)

    def ious(self, answer: Any) -> dict[str, float]:
        return self.inner.ious(answer)  # type: ignore[no-any-return]

    def mask_request(self, sample: Sample, episode: Episode, states: Sequence[State | None]) -> Request:
        return self.inner.mask_request(sample, last_answer(episode), standing(episode, states))  # type: ignore[no-any-return]


def standing(episode: Episode, states: Sequence[State | None]) -> list[State | None]:
    """States of the answer that stands; one that took the target back has none, whatever it wrote."""
    found = list(states[turns_of_last_answer(episode)])
    return [None] * len(found) if episode.verdict is Verdict.NO_TARGET else found


def drawn_state_metrics(
    episodes: Sequence[Episode], states: Sequence[Sequence[State | None]], drawn: Sequence[State | None]
) -> dict[str, float]:
    """Whether dialogues were shown masks of the very states that are scored.

    Args:
        states: per dialogue and turn, of the actor's pass.
        drawn: per dialogue the state, by vLLM, whose masks it was shown; None where it was shown none.
    Returns:
        rollout/masks_shown: share of the dialogues. rollout/drawn_state_gap_max: the largest distance of the two
        states, in lengths of the actor's: rounding, unless one of them has other weights.
    """
    gaps = []
    for episode, known, shown in zip(episodes, states, drawn, strict=True):
        first = known[: len(first_answer(episode).turns)]
        scored = next((state for state in reversed(first) if state is not None), None)
        if shown is not None and scored is not None:
            gaps.append(float(np.linalg.norm(shown - scored) / max(float(np.linalg.norm(scored)), 1e-12)))
    found = {"rollout/masks_shown": len(gaps) / max(1, len(episodes))}
    return found | ({"rollout/drawn_state_gap_max": max(gaps)} if gaps else {})


def with_verdict(x: AnyRewardInput, verification: Verification) -> AnyRewardInput:
    if isinstance(x, CombinedRewardInput):
        seg, boxes = replace(x.seg, verification=verification), replace(x.boxes, verification=verification)
        return CombinedRewardInput(seg, boxes)
    return replace(x, verification=verification)
