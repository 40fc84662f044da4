"""Requests to the segmenter and what comes back: small, picklable, without torch.

Shape legend: C width of a ``[SEG]`` state, T frames of the clip, N boxes, O objects of the expression.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewards.types import PropagatedScores
from rollout.errors import DataError
from rollout.types import RLE, Clip, Masklets

State = NDArray[np.float32]
"""(C,) float32: the projected hidden state of one ``[SEG]``."""


@dataclass(frozen=True)
class SegRequest:
    """Decode every turn's ``[SEG]`` on the spatial frames and on the keyframe shown to that turn (SPEC 2.2)."""

    clip: Clip
    masklets: Masklets
    spatial_frames: Sequence[int]
    states: Sequence[State | None]
    """One per turn; None where the turn has no ``[SEG]``."""
    keyframes: Sequence[int]
    """One per turn."""
    with_masks: bool = False
    """Also return the masks (to look at them; rewards need only the IoUs)."""

    def __post_init__(self) -> None:
        _check_turns(self, len(self.states))
        _check_masklets(self.clip, self.masklets)


@dataclass(frozen=True)
class MaskRequest:
    """Score masks that are already there, through the same code as predicted ones."""

    clip: Clip
    masklets: Masklets
    spatial_frames: Sequence[int]
    spatial_masks: Sequence[Sequence[RLE] | None]
    """Per turn, one mask for each spatial frame, or None for a turn without a mask."""
    keyframes: Sequence[int]
    keyframe_masks: Sequence[RLE | None]
    """Per turn."""

    def __post_init__(self) -> None:
        _check_turns(self, len(self.spatial_masks))
        _check_masklets(self.clip, self.masklets)
        if len(self.keyframe_masks) != len(self.spatial_masks):
            raise ValueError(
                f"clip {self.clip.name}: {len(self.keyframe_masks)} keyframe masks for {len(self.spatial_masks)} turns"
            )
        for turn, masks in enumerate(self.spatial_masks):
            if masks is not None and len(masks) != len(self.spatial_frames):
                raise ValueError(
                    f"clip {self.clip.name}: turn {turn} has {len(masks)} masks for "
                    f"{len(self.spatial_frames)} spatial frames"
                )


@dataclass(frozen=True)
class MaskScores:
    """IoU of each turn's masks with the union of the expression's objects; an empty union counts 1."""

    video_ious: tuple[tuple[float, ...], ...]
    """Per turn, per spatial frame; zeros for a turn without ``[SEG]``."""
    keyframe_ious: tuple[float, ...]
    """Per turn; zero for a turn without ``[SEG]``."""
    rles: tuple[tuple[RLE, ...] | None, ...] | None = None
    """If the request asked for them: per turn one mask for each spatial frame and one for the keyframe, at the clip's
    own size; None for a turn without ``[SEG]``."""


class DrawnBy(StrEnum):
    """Which prompt drew a request's masks at the keyframe, and led them from there."""

    NOTHING = "nothing"
    BOXES = "boxes"
    SEG = "seg"
    BOTH = "both"
    BOXES_AGAINST_SEG = "boxes_against_seg"
    """Both were there and contradicted each other: the boxes alone, see `rewards.segmenter.agreement`."""


@dataclass(frozen=True)
class PropagateRequest:
    """Masks on all T frames from one state at one keyframe (SPEC 2.2, evaluation)."""

    clip: Clip
    keyframe: int
    state: State | None
    """None predicts nothing in any frame."""
    masklets: Masklets | None = None
    """With ground truth the answer carries IoUs."""
    frames: Sequence[int] | None = None
    """Clip frame numbers, in order: the video that SAM 2 sees; None: all T."""
    judged: Sequence[int] = ()
    """Those of the frames in which J and F are wanted, in place of IoUs; needs ground truth."""
    with_masks: bool = True

    def __post_init__(self) -> None:
        _check_frames(self.clip, (self.keyframe,), "keyframe")
        if self.masklets is not None:
            _check_masklets(self.clip, self.masklets)
        _check_video(self.clip, self.video, self.keyframe)
        _check_judged(self.clip, self.video, self.judged, self.masklets)

    @property
    def video(self) -> Sequence[int]:
        """The frames that SAM 2 sees."""
        return range(self.clip.num_frames) if self.frames is None else self.frames


@dataclass(frozen=True)
class PropagatedMasks:
    """(T,) masks at the clip's own size; of a `PointRequest` that of its frame."""

    rles: tuple[RLE, ...]
    """() if no masks were asked for."""
    ious: tuple[float, ...] | None
    objects: tuple[tuple[RLE, ...], ...] | None = None
    """() where nothing was predicted; None: one object, whose masks are ``rles``."""
    judged: PropagatedScores | None = None
    """Of the request's ``judged`` frames; None if it has none."""
    drawn_by: DrawnBy = DrawnBy.SEG


@dataclass(frozen=True)
class BoxRequest:
    """Boxes at a keyframe, one object each, propagated over ``frames`` and merged by union (SPEC 3)."""

    clip: Clip
    frames: Sequence[int]
    """Clip frame numbers, in order: the video that SAM 2 sees."""
    keyframe: int
    """A clip frame number; one of ``frames``."""
    boxes: Sequence[Sequence[float]]
    """(N, 4) x0, y0, x1, y1 in pixels of the clip; none predicts nothing."""
    masklets: Masklets | None
    """With ground truth the answer carries IoUs."""
    with_masks: bool = False
    """Also return the merged masks (evaluation; rewards need only the IoUs)."""
    judged: Sequence[int] = ()
    """Those of the frames in which J and F are wanted, in place of IoUs; needs ground truth."""
    state: State | None = None
    """A ``[SEG]`` state that prompts SAM 2 as well, in every frame: with each box, or alone where there is none. One
    that contradicts the boxes is left out (`rewards.segmenter.agreement`)."""

    def __post_init__(self) -> None:
        _check_video(self.clip, self.frames, self.keyframe)
        if self.masklets is not None:
            _check_masklets(self.clip, self.masklets)
        _check_judged(self.clip, self.frames, self.judged, self.masklets)

    @property
    def video(self) -> Sequence[int]:
        """The frames that SAM 2 sees."""
        return self.frames


@dataclass(frozen=True)
class BoxScores:
    """IoU on each of the request's frames; an empty union counts 1. No IoUs without ground truth."""

    ious: tuple[float, ...]
    rles: tuple[RLE, ...] | None = None
    """One mask for each of the request's frames at the clip's own size, if it asked for them."""
    objects: tuple[tuple[RLE, ...], ...] | None = None
    """The same object by object, where they are not those of one object; () where nothing was predicted."""
    judged: PropagatedScores | None = None
    """Of the request's ``judged`` frames; None if it has none."""
    drawn_by: DrawnBy = DrawnBy.BOXES


@dataclass(frozen=True)
class PointRequest:
    """What SAM 2 itself makes of one click: its mask in the clicked frame, and in no other."""

    clip: Clip
    frame: int
    point: tuple[float, float]
    """x, y in pixels of the clip."""

    def __post_init__(self) -> None:
        _check_frames(self.clip, (self.frame,), "frame")
        x, y = self.point
        if not (0 <= x < self.clip.width and 0 <= y < self.clip.height):
            size = f"{self.clip.width} x {self.clip.height} pixels (width x height)"
            raise ValueError(f"clip {self.clip.name}: point ({x:g}, {y:g}) lies outside its {size}")


Request = SegRequest | MaskRequest | PropagateRequest | BoxRequest | PointRequest
Scores = MaskScores | PropagatedMasks | BoxScores


def _check_turns(request: Any, turns: int) -> None:
    clip = request.clip
    if len(request.keyframes) != turns:
        raise ValueError(f"clip {clip.name}: {len(request.keyframes)} keyframes for {turns} turns")
    _check_frames(clip, request.keyframes, "keyframes")
    _check_frames(clip, request.spatial_frames, "spatial_frames")


def _check_frames(clip: Clip, frames: Sequence[int], what: str) -> None:
    for t in frames:
        if not 0 <= t < clip.num_frames:
            raise ValueError(f"clip {clip.name}: {what} names frame {t}; the clip has 0..{clip.num_frames - 1}")


def _check_video(clip: Clip, frames: Sequence[int], keyframe: int) -> None:
    _check_frames(clip, frames, "frames")
    if keyframe not in frames:
        raise ValueError(f"clip {clip.name}: keyframe {keyframe} is not among frames {frames}")


def _check_judged(clip: Clip, frames: Sequence[int], judged: Sequence[int], masklets: Masklets | None) -> None:
    if judged and masklets is None:
        raise DataError(f"clip {clip.name}: J and F are asked for, but there is no ground truth")
    if outside := set(judged) - set(frames):
        raise ValueError(f"clip {clip.name}: judged frame {min(outside)} is not among those propagated")


def _check_masklets(clip: Clip, masklets: Masklets) -> None:
    found, expected = (masklets.height, masklets.width), (clip.height, clip.width)
    if found != expected:
        raise DataError(f"clip {clip.name}: masks are {found[0]}x{found[1]}, frames {expected[0]}x{expected[1]}")
    if masklets.num_frames != clip.num_frames:
        raise DataError(f"clip {clip.name}: masks for {masklets.num_frames} frames of {clip.num_frames}")
