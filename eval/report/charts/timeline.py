"""A clip on one line of frames: where the target is, where something is predicted, what the policy picked."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup
from numpy.typing import NDArray

from eval.report.charts.svg import canvas, element, text
from rollout.types import Grounding

LEFT, WIDTH, ROW = 110.0, 720.0, 17.0
FINEST = 4.0
"""Narrower cells are drawn together."""


def timeline(gt: NDArray, pred: NDArray, picks: Sequence[tuple[str, Grounding | int | None]]) -> Markup:
    """``gt`` and ``pred`` are (T,) 0/1; ``picks`` is for each turn (row title, interval and keyframe; or the keyframe
    of an answer that has no interval; or None)."""
    frames = len(gt)
    cell = (WIDTH - LEFT - 8) / frames
    rows = [_cells("target visible", gt, 0, cell, "gt"), _cells("mask predicted", pred, 1, cell, "pred")]
    for i, (title, pick) in enumerate(picks, start=2):
        rows.append(_label(title, i))
        if pick is None:
            rows.append(text(LEFT + 4, i * ROW + 12, "no frame chosen"))
            continue
        keyframe = pick if isinstance(pick, int) else pick.keyframe
        note = f"keyframe {keyframe}"
        if isinstance(pick, Grounding):
            start, end = (min(max(v, 0), frames - 1) for v in (pick.start, pick.end))
            note = f"frames {pick.start} to {pick.end}, {note}"
            if end >= start:
                rect = {"x": LEFT + start * cell, "y": i * ROW + 5, "width": (end - start + 1) * cell, "height": 6}
                rows.append(element("rect", element("title", note), **rect, class_="interval"))
        x = LEFT + (min(max(keyframe, 0), frames - 1) + 0.5) * cell
        rows.append(element("circle", element("title", note), cx=x, cy=i * ROW + 8, r=5, class_="keyframe"))
    bottom = (len(picks) + 2) * ROW
    shown = sorted({0, frames - 1, *range(0, frames, max(1, -(-frames // 8)))})
    last_apart = [t for t in shown if t == frames - 1 or (frames - 1 - t) * cell > 24]
    ticks = [text(LEFT + (t + 0.5) * cell, bottom + 11, str(t), "middle") for t in last_apart]
    svg = canvas(WIDTH, bottom + 16, "timeline of the clip", *rows, *ticks)
    return element("div", svg, class_="plot timeline")


def _cells(title: str, on: NDArray, row: int, cell: float, css: str) -> Markup:
    out = [_label(title, row)]
    for start, stop, value in _stretches(on, apart=cell >= FINEST):
        wide = max((stop - start) * cell - (1 if cell >= FINEST else 0), 0.5)
        rect = {"x": LEFT + start * cell, "y": row * ROW + 3, "width": wide, "height": ROW - 6}
        out.append(element("rect", **rect, class_=f"cell {css}" if value else "cell"))
    return Markup("").join(out)


def _stretches(on: NDArray, apart: bool) -> list[tuple[int, int, bool]]:
    """(first frame, one past the last, value): a frame each, or frames of one value together in a long clip."""
    values = [bool(v) for v in on]
    starts = [t for t in range(len(values)) if apart or t == 0 or values[t] != values[t - 1]]
    return [(t, stop, values[t]) for t, stop in zip(starts, [*starts[1:], len(values)], strict=True)]


def _label(title: str, row: int) -> Markup:
    return text(LEFT - 8, row * ROW + 12, title, "end")
