"""Stacked bars over steps, and J&F by kind and stage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from eval.report.charts.svg import Plot, canvas, element, figure, line, nice_ticks, number, step_ticks, text

MOST_BARS = 60
MOST_LETTERS = 21


def stacked_chart(
    caption: str, steps: Sequence[float], parts: Mapping[str, Sequence[float]], unit: str, top: float | None = None
) -> Markup:
    """One bar a step (the mean of neighbours when there are more than 60), one colour a part.

    ``top`` fixes the y axis' end. The legend states each part's mean over all steps. NaN counts as absent.
    """
    if not steps or not parts:
        return Markup("")
    bins = _bins(len(steps))
    heights = {name: [_mean([values[i] for i in bin_]) for bin_ in bins] for name, values in parts.items()}
    highest = max(math.fsum(h[b] for h in heights.values()) for b in range(len(bins)))
    ticks = nice_ticks(0, highest if top is None else top)
    half = (max(steps) - min(steps)) / max(len(bins) - 1, 1) / 2 or 0.5
    plot = Plot(720, 270, (min(steps) - half, max(steps) + half), ticks)
    slot = (plot.width - plot.left - plot.right) / len(bins)
    marks = []
    for b, bin_ in enumerate(bins):
        base = 0.0
        x = plot.left + (b + 0.5) * slot
        label = f"step {number(steps[bin_[0]])}" + (f" to {number(steps[bin_[-1]])}" if len(bin_) > 1 else "")
        for i, (name, values) in enumerate(heights.items()):
            if values[b] > 0:
                y, bottom = plot.y(base + values[b]), plot.y(base)
                title = element("title", f"{label}, {name}: {number(values[b])} {unit}")
                wide = min(slot * 0.82, 40.0)
                rect = {"x": x - wide / 2, "y": y, "width": wide, "height": max(bottom - y, 0.3)}
                marks.append(element("rect", title, **rect, class_=f"bar s{i % 8}"))
                base += values[b]
    legend = [(f"s{i % 8}", f"{name}: {number(_mean(v))} {unit}") for i, (name, v) in enumerate(parts.items())]
    axes = plot.axes(step_ticks(min(steps), max(steps)), "step")
    return figure(caption, canvas(plot.width, plot.height, caption, axes, *marks), legend)


@dataclass(frozen=True)
class StageBar:
    """One bar: J&F with its standard error, None where there is none."""

    stage: str
    mean: float | None
    se: float | None


def kind_chart(caption: str, kinds: Mapping[str, tuple[Sequence[StageBar], float | None]]) -> Markup:
    """Kind -> (one bar a stage, J&F of predicting nothing, drawn as a mark across the bars); percent."""
    if not kinds:
        return Markup("")
    stages = [bar.stage for bar in next(iter(kinds.values()))[0]]
    thick, gap, left, width = 11.0, 14.0, 150.0, 720.0
    scale = (width - left - 48) / 100
    marks = []
    y = 8.0
    for kind, (bars, nothing) in kinds.items():
        tall = thick * len(bars)
        short = kind if len(kind) <= MOST_LETTERS else f"{kind[: MOST_LETTERS - 1]}\N{HORIZONTAL ELLIPSIS}"
        marks.append(text(left - 8, y + tall / 2 + 4, short, "end", "label"))
        for i, bar in enumerate(bars):
            if bar.mean is not None:
                top = y + i * thick
                se = f" ± {bar.se:.1f}" if bar.se is not None else ""
                title = element("title", f"{kind}, {bar.stage}: {bar.mean:.1f}{se}")
                rect = {"x": left, "y": top, "width": max(bar.mean * scale, 0.5), "height": thick - 2}
                marks.append(element("rect", title, **rect, class_=f"bar stage{_shade(i, len(bars))}"))
                end = bar.mean
                if bar.se:
                    low, end = max(bar.mean - bar.se, 0.0), min(bar.mean + bar.se, 100.0)
                    middle = top + (thick - 2) / 2
                    marks.append(line(left + low * scale, middle, left + end * scale, middle, "whisker"))
                marks.append(text(left + max(end, bar.mean) * scale + 5, top + thick - 3, f"{bar.mean:.1f}"))
        if nothing is not None:
            x = left + nothing * scale
            marks.append(line(x, y - 4, x, y + tall + 2, "nothing"))
        y += tall + gap
    grid = [line(left + v * scale, 2, left + v * scale, y - 4, "axis" if v == 0 else "grid") for v in range(0, 101, 25)]
    ticks = [text(left + v * scale, y + 10, str(v), "middle") for v in range(0, 101, 25)]
    legend = [(f"stage{_shade(i, len(stages))}", stage) for i, stage in enumerate(stages)]
    svg = canvas(width, y + 16, caption, *grid, *ticks, *marks)
    return figure(caption, svg, [*legend, ("nothing", "predict nothing")])


def _shade(index: int, count: int) -> int:
    """Stages run from pale to full colour, whatever their number: 0 first, 2 last."""
    return 2 if index == count - 1 else 0 if index == 0 else 1


def _bins(count: int) -> list[range]:
    size = math.ceil(count / MOST_BARS)
    return [range(i, min(i + size, count)) for i in range(0, count, size)]


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return math.fsum(known) / len(known) if known else 0.0
