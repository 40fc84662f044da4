"""What rewards look at. Shape legend: T frames of the clip, S spatial frames, F sampled frames, O objects.

IoUs are fractions in 0..1; an empty union counts 1.0 (SPEC 2.5). Indices are frame numbers of the clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rollout.errors import ProtocolError
from rollout.types import StopReason, Verdict

Variant = Literal["intended", "released"]
"""``intended``: the rule as the paper means it. ``released``: the published code, quirks included."""

Box = tuple[float, float, float, float]
"""``(x1, y1, x2, y2)`` in pixels; both corners belong to the box."""

_IOU_SLACK = 1e-6


@dataclass(frozen=True)
class PropagatedScores:
    """A rollout's masks as its users get them, propagated over the clip, against ground truth in K judged frames.

    No frames: nothing was answered. Raises ProtocolError if the lists do not fit together.
    """

    j: Sequence[float] = ()
    """(K,) region similarity; 1 where neither side has a mask, as in evaluation."""
    f: Sequence[float] = ()
    """(K,) boundary accuracy."""
    predicted: Sequence[bool] = ()
    """(K,) whether there is a mask."""
    has_target: bool = True
    """Whether the expression names anything in this clip."""

    def __post_init__(self) -> None:
        j, f = (_iou_array(v, f"propagated scores, {n}").size for v, n in ((self.j, "J"), (self.f, "F")))
        if not j == f == len(self.predicted):
            raise ProtocolError(f"propagated scores: J of {j} frames, F of {f}, masks of {len(self.predicted)}")


def _iou_array(values: Sequence[float], where: str) -> NDArray[np.float64]:
    """(N,) float64; raises ProtocolError naming ``where`` unless every value is a fraction."""
    ious = np.asarray(values, dtype=np.float64)
    if ious.ndim != 1:
        raise ProtocolError(f"{where}: found shape {ious.shape}, expected a flat list of IoUs")
    bad = ~((ious >= -_IOU_SLACK) & (ious <= 1 + _IOU_SLACK))  # negated, so that NaN counts as bad
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise ProtocolError(f"{where}, entry {i}: found {ious[i]}, an IoU lies in 0..1; check the segmenter's output")
    return ious


@dataclass(frozen=True)
class Verification:
    """What a policy made of its own masks in a verification turn."""

    first: PropagatedScores
    """Of the answer before it; ``propagated`` are those of the answer that stands."""
    verdict: Verdict | None
    """None if there was no such turn."""


@dataclass(frozen=True)
class RewardInput:
    """One finished rollout of the multi-turn protocol (SPEC 2.5).

    Raises ProtocolError, naming turn and entry, if the lists do not fit together; a malformed model reply never
    raises. A rollout without any turn is scored like one empty reply.
    """

    turns: Sequence[str]
    """The assistant messages, in order."""
    existence: Sequence[int] | NDArray[np.integer[Any]]
    """(T,) 1 where any target is visible."""
    video_ious: Sequence[Sequence[float]]
    """Per turn (S,): IoU of its mask on each spatial frame; zeros for a turn without ``[SEG]``."""
    keyframe_ious: Sequence[float]
    """Per turn: IoU of its mask on the keyframe shown to it."""
    stop: StopReason | None = None
    spatial_frames: Sequence[int] | None = None
    """(S,) frame indices behind ``video_ious``; only ``mask_iou_present`` asks for them."""
    propagated: PropagatedScores | None = None
    """None if nothing was propagated, because no reward asks for it."""
    verification: Verification | None = None
    """Only of dialogues in which the policy sees its own masks."""

    def __post_init__(self) -> None:
        turns = len(self.turns)
        if not len(self.video_ious) == len(self.keyframe_ious) == turns:
            raise ProtocolError(
                f"reward input: {turns} turns, but {len(self.video_ious)} lists of video IoUs and "
                f"{len(self.keyframe_ious)} keyframe IoUs; give one of each per turn (zeros without [SEG])"
            )
        if len(self.existence) == 0:
            raise ProtocolError("reward input: existence is empty; it needs one 0/1 per frame of the clip")
        if not np.isin(np.asarray(self.existence), (0, 1)).all():
            raise ProtocolError(f"reward input: existence holds values other than 0 and 1: {list(self.existence)}")
        for t, ious in enumerate(self.video_ious):
            if _iou_array(ious, f"reward input, video IoUs of turn {t}").size == 0:
                raise ProtocolError(f"reward input: turn {t} has no video IoUs; score at least one spatial frame")
        _iou_array(self.keyframe_ious, "reward input, keyframe IoUs")
        self._check_spatial_frames()

    def _check_spatial_frames(self) -> None:
        if self.spatial_frames is None:
            return
        for t, ious in enumerate(self.video_ious):
            if len(ious) != len(self.spatial_frames):
                raise ProtocolError(
                    f"reward input: turn {t} has {len(ious)} video IoUs for {len(self.spatial_frames)} spatial frames"
                )
        outside = [f for f in self.spatial_frames if not 0 <= f < self.num_frames]
        if outside:
            raise ProtocolError(f"reward input: spatial frame {outside[0]} lies outside 0..{self.num_frames - 1}")

    @property
    def num_frames(self) -> int:
        """T."""
        return len(self.existence)

    @property
    def last_text(self) -> str:
        """The last assistant message, ``""`` if there was none."""
        return self.turns[-1] if self.turns else ""

    @property
    def last_video_ious(self) -> NDArray[np.float64]:
        """(S,) float64: IoUs of the last turn; a single 0 if there was no turn."""
        return np.asarray(self.video_ious[-1] if self.turns else [0.0], dtype=np.float64)

    @property
    def last_keyframe_iou(self) -> float:
        """IoU of the last turn's keyframe mask; 0 if there was no turn."""
        return float(self.keyframe_ious[-1]) if self.turns else 0.0


@dataclass(frozen=True)
class CombinedRewardInput:
    """One reply with boxes and ``[SEG]``: rewards of either kind of answer score their part of it."""

    seg: RewardInput
    boxes: BoxRewardInput

    def part(self, kinds: tuple[type, ...]) -> CombinedRewardInput | RewardInput | BoxRewardInput:
        """What a reward of ``kinds`` of input scores."""
        return next((x for x in (self, self.seg, self.boxes) if isinstance(x, kinds)), self)


@dataclass(frozen=True)
class BoxRewardInput:
    """One reply of the single-turn box protocol (SPEC 3), and the ground truth of its F sampled frames."""

    text: str
    timestamps: Sequence[int]
    """(F,) seconds, as written before each frame in the prompt."""
    gt_boxes: Sequence[Sequence[Sequence[float]]]
    """(F, O, 4) one tight box per object in the prompt's pixels; all zeros where the object is absent."""
    areas: Sequence[float]
    """(F,) pixels that the merged objects cover."""
    frame_ious: Sequence[float] | None = None
    """(F,) IoU of the merged SAM 2 masks with ground truth; None if SAM 2 was not asked (see ``matched_boxes``)."""
    stop: StopReason | None = None
    propagated: PropagatedScores | None = None
    """None if nothing was propagated, because no reward asks for it."""
    verification: Verification | None = None
    """Only of dialogues in which the policy sees its own masks."""

    def __post_init__(self) -> None:
        frames = len(self.timestamps)
        if frames == 0:
            raise ProtocolError("box reward input: no sampled frame")
        if not len(self.gt_boxes) == len(self.areas) == frames:
            raise ProtocolError(
                f"box reward input: {frames} timestamps, but boxes for {len(self.gt_boxes)} frames and "
                f"{len(self.areas)} areas; give one of each per sampled frame"
            )
        for i, boxes in enumerate(self.gt_boxes):
            if any(len(box) != 4 for box in boxes):
                raise ProtocolError(f"box reward input: a ground-truth box of sampled frame {i} is not 4 numbers")
        if self.frame_ious is not None:
            ious = _iou_array(self.frame_ious, "box reward input, frame IoUs")
            if ious.size != frames:
                raise ProtocolError(f"box reward input: {ious.size} frame IoUs for {frames} sampled frames")


AnyRewardInput = RewardInput | BoxRewardInput | CombinedRewardInput
