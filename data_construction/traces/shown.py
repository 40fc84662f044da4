"""Which frame stands behind each ``<image>`` of a trace, and at which size it is shown (SPEC 2.1, 2.6, 3)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from data_construction.traces.trace import BOXES, Trace
from rollout.errors import DataError, RecipeError
from rollout.frames import PixelBudget, evenly_spaced

IMAGE = "<image>"
Role = str
LOW, SPATIAL, KEYFRAME, BOX = "low", "spatial", "keyframe", "box"
SIDE = 560
"""Of Veason-R1's square frames, in pixels (SPEC 3)."""


@dataclass(frozen=True)
class Shown:
    """One image of a conversation."""

    frame: int
    role: Role
    """``low`` and ``spatial`` resolution, ``keyframe``; ``box``: Veason-R1's square frames."""


@dataclass(frozen=True)
class ImageSizes:
    """How large each role is shown. The defaults are the training numbers of both methods."""

    low: int = 32
    spatial: int = 128
    keyframe: int = 256
    """Budgets in units of 28 x 28 pixels."""
    side: int | None = None
    """Veason-R1's square, in pixels, for traces that do not say; None: the published one."""
    factor: int = 32
    """Patch times merge of the policy."""

    def of(self, trace: Trace) -> ImageSizes:
        """With what the trace itself says, where it says something. Raises as ``agreed``."""
        budgets = {key: int(value) for key, value in trace.shown.items() if key in (LOW, SPATIAL, KEYFRAME)}
        return replace(self, side=int(agreed(trace, "side", self.side, SIDE)), **budgets)

    def size(self, role: Role, height: int, width: int) -> tuple[int, int]:
        """(height, width) in pixels at which a frame of that clip is shown."""
        if role == BOX:
            return self.side or SIDE, self.side or SIDE
        return PixelBudget({LOW: self.low, SPATIAL: self.spatial, KEYFRAME: self.keyframe}[role]).size(
            height, width, self.factor
        )


def agreed(trace: Trace, key: str, option: float | None, default: float) -> float:
    """What the trace says of ``key``, else the option, else the default. Raises RecipeError where both say different
    things: boxes and times would silently mean others.
    """
    said = trace.shown.get(key)
    if said is not None and option is not None and said != option:
        raise RecipeError(
            f"--{key} {option:g}: trace {trace.id} was made with {key} {said:g}; leave the option out, it is for "
            "traces that do not say"
        )
    return said or option or default


def shown_images(trace: Trace, num_frames: int) -> list[list[Shown]]:
    """For each human message, the images it holds, in the order of its ``<image>`` placeholders.

    The number of low-resolution frames is read off the placeholders: they are evenly spaced over the clip, then over
    the interval that the turn before chose. Raises DataError (trace and message named) where the numbers cannot be.
    """
    counts = [value.count(IMAGE) for who, value in trace.conversations if who == "human"]
    stray = sum(value.count(IMAGE) for who, value in trace.conversations if who != "human")
    if stray:
        raise DataError(f"trace {trace.id}: {IMAGE} outside the human messages; take it out of the text")
    if trace.method == BOXES:
        return [_boxes(trace, counts)]
    out = []
    for n, count in enumerate(counts):
        low = count - (len(trace.frames) if n == 0 else 1)
        if low < 0:
            raise DataError(f"trace {trace.id}: human message {n} has {count} {IMAGE}, fewer than it must show")
        if n == 0:
            start, end, sharp = 0, num_frames - 1, [Shown(f, SPATIAL) for f in trace.frames]
        else:
            if n > len(trace.chosen):
                raise DataError(f"trace {trace.id}: human message {n} follows no choice in cot_trace")
            asked = trace.chosen[n - 1]
            start, end, sharp = asked.start, asked.end, [Shown(asked.keyframe, KEYFRAME)]
        if not 0 <= start <= end < num_frames:
            raise DataError(f"trace {trace.id}: turn {n}: interval {start}..{end} outside 0..{num_frames - 1}")
        frames = evenly_spaced(start, end, low)
        if len(frames) != low:
            what = f"{count} {IMAGE} but only {end - start + 1} frames in {start}..{end}"
            raise DataError(f"trace {trace.id}: human message {n} has {what}")
        out.append([*(Shown(f, LOW) for f in frames), *sharp])
    return out


def _boxes(trace: Trace, counts: list[int]) -> list[Shown]:
    if counts != [len(trace.frames)]:
        raise DataError(f"trace {trace.id}: {counts} {IMAGE} in the human messages for {len(trace.frames)} frames")
    return [Shown(f, BOX) for f in trace.frames]


def seen_before(trace: Trace, num_frames: int) -> list[list[int]]:
    """For each reply, the frame indices shown up to it, increasing. Raises as ``shown_images``."""
    seen: set[int] = set()
    out = []
    for images in shown_images(trace, num_frames):
        seen |= {image.frame for image in images}
        out.append(sorted(seen))
    return out
