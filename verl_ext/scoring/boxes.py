"""Scoring of box answers (Veason-R1, SPEC 3): SAM 2 is prompted with the policy's boxes; no ``[SEG]`` states.

Shape legend: F frames shown, O objects. Prompt pixels are those of the square frames that the policy saw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rewards.compose import compute_rewards
from rewards.segmenter.types import BoxRequest, BoxScores, State
from rewards.truth import truth
from rewards.types import Box, BoxRewardInput, Variant
from rewards.veason import chosen_position, matched_boxes, read_reply
from rollout.box_protocol import parse_box_turn
from rollout.environments.single_turn_boxes import BoxSettings
from rollout.types import RLE, Episode, Masklets, Sample
from verl_ext.recipe.objective import PropagationRecipe
from verl_ext.scoring.propagation import OneAnswer, answered, judged_request, propagated_scores, wants_propagation
from verl_ext.scoring.rollouts import Remembered

NEEDS_MASKS = "veason_consistency"
"""The one reward of the method's own that asks SAM 2."""

FrameTruth = tuple[list[list[Box]], list[int]]
"""Per shown frame: (O, 4) boxes in the prompt's units, and the pixels that the objects cover together."""


@dataclass
class BoxScoring(OneAnswer):
    """See :class:`verl_ext.scoring.rollouts.Scoring`."""

    settings: BoxSettings
    weights: Mapping[str, float]
    variant: Variant
    columns: tuple[str, ...] = ()
    combines: bool = False
    kept_as: Mapping[str, str] = field(default_factory=dict)
    propagation: PropagationRecipe = field(default_factory=PropagationRecipe)
    _truth: Remembered[FrameTruth] = field(default_factory=Remembered)

    @property
    def needs_pool(self) -> bool:
        return NEEDS_MASKS in self.weights or wants_propagation(self.weights)

    def states(self, episodes: Sequence[Episode], columns: Mapping[str, Any]) -> list[list[State | None]]:
        return [[None] * len(e.turns) for e in episodes]

    def reward_request(
        self, sample: Sample, episode: Episode, states: Sequence[State | None], with_masks: bool = False
    ) -> BoxRequest | None:
        """The matched boxes at the chosen frame, propagated over the frames that were shown."""
        if NEEDS_MASKS not in self.weights:
            return None
        x = self.reward_input(sample, episode)
        boxes = matched_boxes(x, self.variant)
        position = chosen_position(read_reply(x.text, self.variant), x.timestamps, self.variant)
        if not boxes or position is None:
            return None
        frames = list(episode.spatial_frames)
        keyframe, prompts = frames[position], self._in_clip(boxes, sample)
        return BoxRequest(sample.clip, frames, keyframe, prompts, truth(sample), with_masks)

    def propagation_request(
        self, sample: Sample, episode: Episode, states: Sequence[State | None]
    ) -> BoxRequest | None:
        """The boxes that evaluation would propagate. An answer without boxes is one, and right without a target."""
        if not wants_propagation(self.weights) or not answered(episode):
            return None
        return judged_request(self.mask_request(sample, episode, states), sample, self.propagation)

    def masks(self, episode: Episode, answer: BoxScores) -> list[dict[int, RLE]]:
        return [dict(zip(episode.spatial_frames, answer.rles or (), strict=False))]

    def rewards(
        self,
        sample: Sample,
        episode: Episode,
        answer: BoxScores | None,
        propagated: BoxScores | None = None,
        first: None = None,
    ) -> dict[str, float]:
        """A dialogue without a turn (its first message did not fit) is scored like an empty reply."""
        return compute_rewards(self.reward_input(sample, episode, answer, propagated), self.weights, self.variant)

    def ious(self, answer: BoxScores) -> dict[str, float]:
        return {"frames": float(np.mean(answer.ious))}

    def mask_request(self, sample: Sample, episode: Episode, states: Sequence[State | None]) -> BoxRequest:
        """Every box that can be read, one object each, propagated over all frames; none without a frame of the clip."""
        answer = parse_box_turn(_text(episode)).answer
        keyframe, boxes = None, []
        if answer is not None:
            keyframe = self.settings.frame_at(sample.clip, episode.spatial_frames, answer.keyframe_timestamp)
            boxes = [] if keyframe is None else self._in_clip(answer.boxes, sample)
        frames = list(range(sample.clip.num_frames))
        return BoxRequest(sample.clip, frames, keyframe or 0, boxes, sample.masklets, with_masks=True)

    def reward_input(
        self,
        sample: Sample,
        episode: Episode,
        answer: BoxScores | None = None,
        propagated: BoxScores | None = None,
    ) -> BoxRewardInput:
        """The reply, the ground truth of the frames that were shown, and what the pool said."""
        frames = episode.spatial_frames or (sample.clip.num_frames // 2,)
        boxes, areas = self._truth.get(sample, lambda: frame_truth(truth(sample), frames, self.settings.span), frames)
        times = self.settings.timestamps(sample.clip, frames)
        ious, after = None if answer is None else answer.ious, propagated_scores(sample, propagated)
        return BoxRewardInput(_text(episode), times, boxes, areas, ious, stop=episode.stop, propagated=after)

    def _in_clip(self, boxes: Sequence[Box], sample: Sample) -> list[tuple[float, ...]]:
        """From the prompt's units to the clip's pixels, cut to the frame: SAM 2 has no number for a box far away."""
        span = self.settings.span
        across, down = sample.clip.width / span, sample.clip.height / span
        inside = np.clip(np.asarray(boxes, dtype=np.float64).reshape(-1, 4), 0, span)
        return [tuple(box) for box in (inside * [across, down, across, down]).tolist()]


def frame_truth(masklets: Masklets, frames: Sequence[int], span: int) -> FrameTruth:
    """Tight boxes ``[x1, y1, x2, y2]`` of every object, scaled to a square of ``span`` and rounded half up, and areas.

    An object that is absent from a frame has ``[0, 0, 0, 0]`` there.
    """
    scale = np.array([span / masklets.width, span / masklets.height] * 2)
    boxes: list[list[Box]] = []
    areas = []
    for t in frames:
        here: list[Box] = []
        for o in range(len(masklets.rles)):
            rows, columns = np.nonzero(masklets.object_mask(o, t))
            corners = [columns.min(), rows.min(), columns.max(), rows.max()] if len(rows) else [0.0] * 4
            x1, y1, x2, y2 = np.floor(np.array(corners) * scale + (0.5 if len(rows) else 0.0)).tolist()
            here.append((x1, y1, x2, y2))
        boxes.append(here)
        areas.append(int(masklets.union(t).sum()))
    return boxes, areas


def _text(episode: Episode) -> str:
    return episode.texts[0] if episode.turns else ""


def build(settings: Mapping[str, Any], weights: Mapping[str, float], variant: Variant) -> BoxScoring:
    return BoxScoring(BoxSettings.from_dict(settings), weights, variant)
