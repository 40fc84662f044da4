"""Everything that the page draws of one trace."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_construction.traces import BOXES, Trace, shown_images
from data_construction.traces.shown import SIDE, agreed
from eval.report.dialogue import split_turn
from eval.report.images import GT_COLOUR, PRED_COLOUR, data_uri, overlay, thumbnail
from eval.traces.choose import Entry
from rollout.box_protocol import parse_box_turn
from rollout.errors import DataError
from rollout.frames import evenly_spaced
from rollout.protocol import parse_turn
from rollout.types import Grounding, Sample

SMALL, LARGE = 104, 300
"""Longer side of a picture, in pixels."""
MOST_SHOWN = 12
_STEP = re.compile(r"(Step \d+:|Action:)")


@dataclass(frozen=True)
class Picture:
    """One frame as the page shows it."""

    frame: int
    uri: str
    label: str
    is_keyframe: bool = False


@dataclass(frozen=True)
class Span:
    """A bar of the timeline, in per cent of its length; ``key`` is the keyframe's place."""

    label: str
    bars: tuple[tuple[float, float], ...]
    css: str
    key: float | None = None


@dataclass(frozen=True)
class TurnView:
    number: int
    action: str
    choice: str
    steps: list[tuple[str, str]]
    """(label, text) of the thinking."""
    rest: str
    shown: list[Picture]
    hidden: int
    large: Picture | None
    """The keyframe that this turn chose, with the ground truth (and boxes) on it."""


@dataclass(frozen=True)
class TraceView:
    """One article of the page."""

    entry: Entry
    anchor: str
    spans: list[Span]
    turns: list[TurnView]
    frames: int
    visible: int | None
    """Frames with a target; None where the split has no masks."""
    note: str = ""
    """Why there are no pictures."""


def trace_view(entry: Entry, sample: Sample, side: int | None = None) -> TraceView:
    """Raises DataError for a frame that cannot be read, RecipeError where ``side`` is not what the trace says. Text is
    not escaped here: the template does that.
    """
    trace, total = entry.trace, sample.clip.num_frames
    square = int(agreed(trace, "side", side, SIDE))
    areas = None if sample.masklets is None else sample.masklets.areas()
    try:
        messages = [[image.frame for image in message] for message in shown_images(trace, total)]
    except DataError:
        messages = []  # a rejected trace may not add up; its text is shown all the same
    turns = [
        _turn(n, reply, messages[n] if n < len(messages) else [], trace, sample, square)
        for n, reply in enumerate(trace.replies)
    ]
    spans = [] if areas is None else [Span("target visible", _bars(areas > 0), "truth")]
    for n, grounding in enumerate(_groundings(trace), start=1):
        if grounding is not None:
            spans.append(_span("keyframe" if trace.method == BOXES else f"turn {n}", grounding, total))
    return TraceView(entry, f"t{entry.place}", spans, turns, total, None if areas is None else int((areas > 0).sum()))


def bare_view(entry: Entry, note: str) -> TraceView:
    """Without pictures: the data set does not hold the clip, or not its frames."""
    turns = [_turn(n, reply, [], entry.trace, None, SIDE) for n, reply in enumerate(entry.trace.replies)]
    return TraceView(entry, f"t{entry.place}", [], turns, 0, None, note)


def _turn(n: int, reply: str, frames: Sequence[int], trace: Trace, sample: Sample | None, side: int) -> TurnView:
    parts = split_turn(reply)
    if trace.method == BOXES:
        read = parse_box_turn(reply)
        answer = read.answer
        action = "answer" if answer else "does not parse"
        said = [f"{answer.keyframe_timestamp} s, {_counted(len(answer.boxes))}"] if answer else []
        choice = "; ".join([*said, *([read.problem] if read.problem else [])])
        keyframe, boxes = trace.keyframe, answer.boxes if answer else ()
    else:
        parsed = parse_turn(reply)
        g = parsed.grounding
        action = parsed.action.value if parsed.action else "does not parse"
        choice = f"frames {g.start} to {g.end}, keyframe {g.keyframe}" if g else parsed.problem or ""
        keyframe, boxes = g.keyframe if g else None, ()
    shown: list[Picture] = []
    large = None
    inside = [f for f in frames if sample is not None and 0 <= f < sample.clip.num_frames]
    keep = [inside[i] for i in evenly_spaced(0, len(inside) - 1, MOST_SHOWN)] if inside else []
    if sample is not None:
        shown = [_picture(sample, f, SMALL, f == keyframe) for f in keep]
        if keyframe is not None and 0 <= keyframe < sample.clip.num_frames:
            large = _picture(sample, keyframe, LARGE, True, boxes, side)
    steps = _steps(parts.thinking)
    return TurnView(n + 1, action, choice, steps, parts.rest, shown, len(inside) - len(keep), large)


def _picture(
    sample: Sample, frame: int, longest: int, is_keyframe: bool, boxes: Sequence[Any] = (), side: int = SIDE
) -> Picture:
    image = thumbnail(sample.clip.frames[frame], longest)
    label = f"frame {frame}"
    if sample.masklets is not None:
        mask = sample.masklets.union(frame)
        image = overlay(image, mask, GT_COLOUR)
        label += ", target outlined" if mask.any() else ", no target"
    if boxes:
        image = _boxed(image, boxes, side)
        label += f", {_counted(len(boxes))}"
    return Picture(frame, data_uri(image, quality=78 if longest == LARGE else 64), label, is_keyframe)


def _boxed(image: NDArray[np.uint8], boxes: Sequence[Any], side: int) -> NDArray[np.uint8]:
    """The trace's boxes, given in pixels of a square frame of that side, drawn on the picture."""
    from PIL import Image, ImageDraw

    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    for box in boxes:
        if not np.isfinite(box).all():
            continue
        x1, y1, x2, y2 = np.clip(box, -side, 2 * side) / side
        left, right = sorted((x1 * picture.width, x2 * picture.width))
        top, bottom = sorted((y1 * picture.height, y2 * picture.height))
        draw.rectangle((left, top, right, bottom), outline=PRED_COLOUR, width=2)
    return np.asarray(picture)


def _groundings(trace: Trace) -> list[Grounding | None]:
    if trace.method == BOXES:
        return [] if trace.keyframe is None else [Grounding(trace.keyframe, trace.keyframe, trace.keyframe)]
    return [parse_turn(reply).grounding for reply in trace.replies]


def _span(label: str, g: Grounding, total: int) -> Span:
    start, end, key = (min(max(v, 0), total - 1) for v in (g.start, g.end, g.keyframe))
    bars = ((100 * start / total, 100 * (end - start + 1) / total),) if end >= start else ()
    return Span(label, bars, "pick", 100 * (key + 0.5) / total)


def _bars(on: NDArray[np.bool_]) -> tuple[tuple[float, float], ...]:
    """(left, width) in per cent of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], on.astype(np.int8), [0]])))
    return tuple((100 * a / len(on), 100 * (b - a) / len(on)) for a, b in zip(edges[::2], edges[1::2], strict=True))


def _steps(thinking: str) -> list[tuple[str, str]]:
    """The decoupled parts of a thinking; one part without a label where it has none."""
    pieces = _STEP.split(thinking)
    parts = [("", pieces[0].strip())] if pieces[0].strip() else []
    return parts + [(label.rstrip(":"), text.strip()) for label, text in zip(pieces[1::2], pieces[2::2], strict=True)]


def _counted(boxes: int) -> str:
    return "1 box" if boxes == 1 else f"{boxes} boxes"
