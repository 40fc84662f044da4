"""Scoring of box answers (Veason-R1, SPEC 3): SAM 2 is prompted with the policy's boxes; no ``[SEG]`` states.

Shape legend: F frames shown, O objects. Prompt pixels are those of the square frames that the policy saw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rewards.compose import compute_rewards
from rewards.segmenter.types import BoxRequest, BoxScores, State
from rewards.types import Box, BoxRewardInput, Variant
from rewards.veason import matched_boxes, read_reply
from rewards.veason.reply import BoxReply, usable_box
from rollout.environments.single_turn_boxes import BoxSettings
from rollout.types import Episode, Masklets, Sample
from verl_ext.scoring import Remembered, truth

NEEDS_MASKS = "veason_consistency"
"""The one reward that asks SAM 2."""

FrameTruth = tuple[list[list[Box]], list[int]]
"""Per shown frame: (O, 4) boxes in prompt pixels, and the pixels that the objects cover together."""


@dataclass
class BoxScoring:
    """See :class:`verl_ext.scoring.Scoring`."""

    settings: BoxSettings
    weights: Mapping[str, float]
    variant: Variant
    columns: tuple[str, ...] = ()
    kept_as: Mapping[str, str] = field(default_factory=dict)
    _truth: Remembered[FrameTruth] = field(default_factory=Remembered)

    @property
    def needs_pool(self) -> bool:
        return NEEDS_MASKS in self.weights

    def states(self, episodes: Sequence[Episode], columns: Mapping[str, Any]) -> list[list[State | None]]:
        return [[None] * len(e.turns) for e in episodes]

    def reward_request(self, sample: Sample, episode: Episode, states: Sequence[State | None]) -> BoxRequest | None:
        """The matched boxes at the chosen frame, propagated over the frames that were shown."""
        if not self.needs_pool:
            return None
        x = self.reward_input(sample, episode)
        boxes = matched_boxes(x, self.variant)
        keyframe = self._keyframe(read_reply(x.text, self.variant), episode, self.variant)
        if not boxes or keyframe is None:
            return None
        given = self._in_clip(boxes, sample)
        return BoxRequest(sample.clip, list(episode.spatial_frames), keyframe, given, truth(sample))

    def rewards(self, sample: Sample, episode: Episode, answer: BoxScores | None) -> dict[str, float]:
        """A dialogue that never began (its clip was refused) is scored like an empty reply."""
        x = self.reward_input(sample, episode)
        if answer is not None:
            x = replace(x, frame_ious=answer.ious)
        return compute_rewards(x, self.weights, self.variant)

    def ious(self, answer: BoxScores) -> dict[str, float]:
        return {"frames": float(np.mean(answer.ious))}

    def mask_request(self, sample: Sample, episode: Episode, states: Sequence[State | None]) -> BoxRequest:
        """Every well-formed box, one object each, propagated over all frames; nothing without a chosen frame."""
        reply = read_reply(_text(episode), "intended")
        keyframe = self._keyframe(reply, episode, "intended")
        boxes: list[Box] = []
        if reply is not None and keyframe is not None:
            boxes = [box for value in reply.candidates if (box := usable_box(value, "intended")) is not None]
        frames = list(range(sample.clip.num_frames))
        given = self._in_clip(boxes, sample)
        return BoxRequest(sample.clip, frames, keyframe or 0, given, sample.masklets, with_masks=True)

    def reward_input(self, sample: Sample, episode: Episode) -> BoxRewardInput:
        """The reply and the ground truth of the frames that were shown."""
        frames = episode.spatial_frames or (sample.clip.num_frames // 2,)
        boxes, areas = self._truth.get(sample, lambda: frame_truth(truth(sample), frames, self.settings.side), frames)
        return BoxRewardInput(_text(episode), self._timestamps(frames), boxes, areas, stop=episode.stop)

    def _timestamps(self, frames: Sequence[int]) -> list[int]:
        """Whole seconds, as the prompt writes them."""
        return [int(f / self.settings.fps) for f in frames]

    def _keyframe(self, reply: BoxReply | None, episode: Episode, variant: Variant) -> int | None:
        """The clip's frame behind the chosen timestamp; None if it is not one of those shown."""
        position = None if reply is None else reply.frame(self._timestamps(episode.spatial_frames), variant)
        return None if position is None else episode.spatial_frames[position]

    def _in_clip(self, boxes: Sequence[Box], sample: Sample) -> list[tuple[float, ...]]:
        """From prompt pixels to the clip's pixels."""
        side = self.settings.side
        across, down = sample.clip.width / side, sample.clip.height / side
        return [(x1 * across, y1 * down, x2 * across, y2 * down) for x1, y1, x2, y2 in boxes]


def frame_truth(masklets: Masklets, frames: Sequence[int], side: int) -> FrameTruth:
    """Tight boxes ``[x1, y1, x2, y2]`` of every object, scaled to ``side`` and rounded half up, and areas.

    An object that is absent from a frame has ``[0, 0, 0, 0]`` there.
    """
    scale = np.array([side / masklets.width, side / masklets.height] * 2)
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
