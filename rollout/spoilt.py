"""Pictures that are not what the dialogue says they are: with them, a policy that looks must fall to one that is blind.

Only what the policy is shown changes: frame numbers, budgets and everything that is scored stay the clip's own.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from rollout.conversation import ReadPictures, part_image, read_frames
from rollout.errors import DataError
from rollout.frames import load_frame_resized
from rollout.types import Clip, Sample, StandIn

if TYPE_CHECKING:
    from PIL.Image import Image

GREY = (127, 127, 127)
Spoil = Callable[[Clip, Clip | None], StandIn]


@dataclass(frozen=True)
class Way:
    """One way to spoil a clip's pictures."""

    about: str
    spoil: Spoil
    """From the clip, and another one where ``wants_other``."""
    wants_other: bool = False
    wants_frames: bool = False
    """A clip of one frame would stay as it is."""


def _blank(clip: Clip, other: Clip | None) -> StandIn:
    return StandIn(clip, (None,) * clip.num_frames)


def _shuffled(clip: Clip, other: Clip | None) -> StandIn:
    """No frame keeps its place; the order depends on the clip's name alone."""
    order = np.random.default_rng(zlib.crc32(clip.name.encode())).permutation(clip.num_frames)
    shown = np.empty(clip.num_frames, dtype=np.int64)
    shown[order] = np.roll(order, 1)
    return StandIn(clip, tuple(int(t) for t in shown))


def _frozen(clip: Clip, other: Clip | None) -> StandIn:
    return StandIn(clip, (0,) * clip.num_frames)


def _other_clip(clip: Clip, other: Clip | None) -> StandIn:
    """The whole of another clip, slower or faster where it is shorter or longer."""
    assert other is not None
    last = max(clip.num_frames - 1, 1)
    return StandIn(other, tuple(t * (other.num_frames - 1) // last for t in range(clip.num_frames)))


WAYS: dict[str, Way] = {
    "blank": Way("every picture is plain grey", _blank),
    "shuffled": Way("the clip's frames in another order", _shuffled, wants_frames=True),
    "frozen": Way("the clip's first frame, every time", _frozen, wants_frames=True),
    "other-clip": Way("the frames of another clip", _other_clip, wants_other=True),
}


def picture(stand_in: StandIn, frame: int, height: int, width: int) -> Image:
    """What is shown as a clip's ``frame`` at height x width pixels. Raises DataError, see `load_frame`."""
    shown = stand_in.frames[frame]
    if shown is None:
        from PIL import Image as pil

        return pil.new("RGB", (width, height), GREY)
    return load_frame_resized(stand_in.clip, shown, height, width)


def read_of(sample: Sample) -> ReadPictures:
    """How a conversation on a sample reads its pictures: the clip's own, or what stands in for them."""
    if sample.stand_in is None:
        return read_frames
    stand_in = sample.stand_in
    return lambda clip, parts: [part_image(clip, p, picture(stand_in, p.frame, p.height, p.width)) for p in parts]


def check_way(name: str, clips: dict[str, int]) -> None:
    """Raise DataError where a way cannot spoil anything. ``clips``: frames by the clip's name."""
    way = WAYS[name]
    if way.wants_other and len(clips) < 2:
        raise DataError(
            f"--images {name}: there is one clip only ({next(iter(clips), 'none')}), and none to take the pictures of; "
            "evaluate a split with more clips, or give --images blank"
        )
    if way.wants_frames and max(clips.values(), default=0) < 2:
        raise DataError(
            f"--images {name}: every clip has one frame, whose picture would stay as it is; give --images blank or "
            "other-clip"
        )


def spoilt(sample: Sample, name: str, other: Clip | None = None) -> Sample:
    """The sample with pictures spoilt in that way; ``other`` is the clip that ``other-clip`` shows."""
    return replace(sample, stand_in=WAYS[name].spoil(sample.clip, other))
