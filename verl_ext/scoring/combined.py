"""Scoring of answers with boxes and ``[SEG]``: the scorings of both kinds, and SAM 2 prompted with both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rewards.compose import compute_rewards
from rewards.segmenter.types import BoxRequest, BoxScores, MaskScores, SegRequest, State
from rewards.types import CombinedRewardInput, Variant
from rollout.environments.combined_answers import CombinedSettings
from rollout.types import RLE, Episode, Sample
from verl_ext.recipe.objective import PropagationRecipe
from verl_ext.scoring.boxes import BoxScoring
from verl_ext.scoring.propagation import OneAnswer, judged_state, wants_propagation
from verl_ext.scoring.seg import SegScoring


@dataclass
class CombinedScoring(OneAnswer):
    """See :class:`verl_ext.scoring.rollouts.Scoring`."""

    seg: SegScoring
    boxes: BoxScoring
    weights: Mapping[str, float]
    variant: Variant
    needs_pool: bool = True
    combines: bool = True
    propagation: PropagationRecipe = field(default_factory=PropagationRecipe)

    @property
    def columns(self) -> tuple[str, ...]:
        return self.seg.columns

    @property
    def kept_as(self) -> Mapping[str, str]:
        return self.seg.kept_as

    def states(self, episodes: Sequence[Episode], columns: Mapping[str, Any]) -> list[list[State | None]]:
        return self.seg.states(episodes, columns)

    def reward_request(
        self, sample: Sample, episode: Episode, states: Sequence[State | None], with_masks: bool = False
    ) -> SegRequest | None:
        """The ``[SEG]`` on the frames that were shown and on the answer's keyframe."""
        return self.seg.reward_request(sample, episode, states, with_masks)

    def propagation_request(
        self, sample: Sample, episode: Episode, states: Sequence[State | None]
    ) -> BoxRequest | None:
        """What evaluation would propagate; an answer without boxes and ``[SEG]`` is right without a target."""
        if not wants_propagation(self.weights):
            return None
        return judged_state(self.mask_request(sample, episode, states), sample, episode, self.propagation)

    def masks(self, episode: Episode, answer: MaskScores) -> list[dict[int, RLE]]:
        return self.seg.masks(episode, answer)

    def rewards(
        self,
        sample: Sample,
        episode: Episode,
        answer: MaskScores | None,
        propagated: BoxScores | None = None,
        first: None = None,
    ) -> dict[str, float]:
        """Rewards of boxes, of ``[SEG]`` masks and of the whole answer, each of its part."""
        return compute_rewards(self.reward_input(sample, episode, answer, propagated), self.weights, self.variant)

    def reward_input(
        self, sample: Sample, episode: Episode, answer: MaskScores | None, propagated: BoxScores | None
    ) -> CombinedRewardInput:
        """Both parts of the answer."""
        seg = self.seg.reward_input(sample, episode, answer, propagated)
        return CombinedRewardInput(seg, self.boxes.reward_input(sample, episode, None, propagated))

    def ious(self, answer: MaskScores) -> dict[str, float]:
        return self.seg.ious(answer)

    def mask_request(self, sample: Sample, episode: Episode, states: Sequence[State | None]) -> BoxRequest:
        """The boxes, each with the ``[SEG]`` state, at the answer's keyframe; the state alone where no box is there.

        Where no answer can be read, the keyframe is the frame on which its ``[SEG]`` was decoded.
        """
        whole = self.boxes.mask_request(sample, episode, states)
        state = next((s for s in reversed(states) if s is not None), None)
        keyframe = episode.turns[-1].keyframe if episode.turns else whole.keyframe
        return replace(whole, state=state, keyframe=keyframe)


def build(settings: Mapping[str, Any], weights: Mapping[str, float], variant: Variant) -> CombinedScoring:
    boxes = BoxScoring(CombinedSettings.from_dict(settings), weights, variant)
    return CombinedScoring(SegScoring(weights, variant), boxes, weights, variant)
