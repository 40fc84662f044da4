"""Which frames are shown, at which size, and reading them from disk.

Sizes are (height, width) in pixels. Pixel budgets are in units of 28 x 28 pixels (SPEC 2.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rollout.errors import DataError, ProtocolError
from rollout.types import Clip
from rollout.video import split_frame_path, video_frame

if TYPE_CHECKING:
    from PIL.Image import Image

UNIT_PIXELS = 28 * 28
MIN_UNITS = 4
TOP_KEYFRAMES = 5
"""Veason-R1 draws the keyframe among this many frames of largest mask area (SPEC 3)."""


def evenly_spaced(start: int, end: int, n: int, spare: int = 0) -> list[int]:
    """At most ``n`` increasing indices of start..end, both ends included: the choice of both papers' code (SPEC 2.1).

    ``numpy.linspace``, truncated; a range of at most ``n + spare`` frames is taken whole. ``n == 1`` gives the first
    frame, ``n == 0`` nothing. Raises `ProtocolError` if end < start or n < 0.
    """
    if end < start or n < 0:
        raise ProtocolError(f"cannot take {n} frames of [{start}, {end}]")
    if n > 0 and end - start + 1 <= n + spare:
        return list(range(start, end + 1))
    # Integer division is not the same: NumPy multiplies by a rounded step, and frame 61 of 0..122 becomes 60.
    return np.linspace(start, end, n, dtype=int).tolist()  # type: ignore[no-any-return]


def keyframe_congruent(areas: ArrayLike, n: int, rng: np.random.Generator) -> tuple[list[int], int]:
    """Veason-R1's training frames (SPEC 3): ``(frames, keyframe)``, frames increasing, at most ``n``.

    areas (T,): mask area per frame. A keyframe is drawn among the 5 largest areas; every frame congruent to it
    modulo ceil(T / (n - 1)) is taken. Raises `ProtocolError` for an empty clip or n < 2.
    """
    sizes = np.asarray(areas)
    total = len(sizes)
    if total == 0 or n < 2:
        raise ProtocolError(f"keyframe_congruent needs frames and n >= 2, got {total} frames and n = {n}")
    largest = np.argsort(-sizes, kind="stable")[:TOP_KEYFRAMES]
    keyframe = int(rng.choice(largest))
    step = math.ceil(total / (n - 1))
    return list(range(keyframe % step, total, step)), keyframe


def frame_times(clip: Clip, fps: float = 0.0) -> NDArray[np.float64]:
    """(T,) seconds at which frames are shown: by ``fps`` if it is given, else as the clip says, else one a second."""
    if clip.times and not fps:
        return np.array(clip.times)
    return np.arange(clip.num_frames) / (fps or clip.fps or 1.0)


def whole_seconds(times: ArrayLike) -> tuple[int, ...]:
    """Seconds, cut to whole numbers."""
    return tuple(int(t) for t in np.asarray(times, dtype=np.float64))


def one_a_second(times: ArrayLike) -> list[int]:
    """The first frame of every whole second that has one: the clip at one frame a second. All, if it has no more."""
    seconds = whole_seconds(times)
    return [t for t in range(len(seconds)) if t == 0 or seconds[t] != seconds[t - 1]]


def smart_size(
    height: int, width: int, budget_units: int, factor: int = 32, min_units: int = MIN_UNITS
) -> tuple[int, int]:
    """The (height, width) at which a frame enters the policy: Qwen-VL's public resize rule.

    Both are multiples of ``factor`` (patch * merge), the area is at most ``budget_units`` and, where the budget
    allows, at least ``min_units`` units, and the aspect ratio is kept as closely as the grid permits. Two cases
    break the limits, as they do in Qwen's: a sliver one cell wide, and a budget of less than one cell.
    """
    if min(height, width, budget_units, factor) <= 0:
        raise ProtocolError(f"no frame size for {height}x{width}, budget {budget_units}, factor {factor}")
    return fitted_size(height, width, budget_units * UNIT_PIXELS, min_units * UNIT_PIXELS, factor)


def fitted_size(height: int, width: int, most: int, least: int, factor: int) -> tuple[int, int]:
    """`smart_size` with its limits in pixels."""
    h, w = max(factor, round(height / factor) * factor), max(factor, round(width / factor) * factor)
    if h * w > most:
        shrink = math.sqrt(height * width / most)
        h = max(factor, math.floor(height / shrink / factor) * factor)
        w = max(factor, math.floor(width / shrink / factor) * factor)
    elif h * w < least:
        grow = math.sqrt(least / (height * width))
        h, w = math.ceil(height * grow / factor) * factor, math.ceil(width * grow / factor) * factor
    return h, w


@dataclass(frozen=True)
class PixelBudget:
    """The most pixels that a frame may spend, in units of 28 x 28."""

    units: int

    def size(self, height: int, width: int, factor: int = 32) -> tuple[int, int]:
        """(height, width) of a frame under this budget, see `smart_size`."""
        return smart_size(height, width, self.units, factor)


def load_frame(clip: Clip, index: int) -> Image:
    """Frame ``index`` of a clip as an RGB image of the clip's size; ``video.mp4#<index>`` is a frame of a video.

    Raises `DataError` (clip, frame and file named) if it is missing, unreadable or of another size.
    """
    from PIL import Image as pil

    if not 0 <= index < clip.num_frames:
        raise ProtocolError(f"clip {clip.name}: frame {index} asked for, the clip has 0..{clip.num_frames - 1}")
    path = clip.frames[index]
    where = f"clip {clip.name}, frame {index}, file {path}"
    in_video = split_frame_path(path)
    try:
        if in_video is not None:
            image = video_frame(*in_video)
        else:
            with pil.open(path) as file:
                image = file.convert("RGB")
    except FileNotFoundError as e:
        raise DataError(f"{where}: the file does not exist; check the data set's root") from e
    except DataError as e:
        raise DataError(f"{where}: {e}") from e
    except (OSError, SyntaxError, ValueError, pil.DecompressionBombError) as e:
        raise DataError(f"{where}: cannot be read as an image ({e}); restore the file") from e
    if image.size != (clip.width, clip.height):
        raise DataError(
            f"{where}: is {image.height}x{image.width} (height x width), the clip says {clip.height}x{clip.width}"
        )
    return image


def load_frames(clip: Clip, indices: Sequence[int]) -> list[Image]:
    """`load_frame` for several indices, in their order."""
    return [load_frame(clip, i) for i in indices]


def load_frame_resized(clip: Clip, index: int, height: int, width: int) -> Image:
    """`load_frame`, resized (bicubic) to height x width."""
    from PIL.Image import Resampling

    image = load_frame(clip, index)
    if image.size == (width, height):
        return image
    return image.resize((width, height), Resampling.BICUBIC)
