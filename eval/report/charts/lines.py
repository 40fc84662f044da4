"""Curves over training steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from eval.report.charts.svg import Plot, canvas, element, figure, finite, nice_ticks, number, step_ticks


@dataclass(frozen=True)
class Series:
    """One curve: a value, or NaN where there is none, for each step."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]

    def points(self) -> list[tuple[float, float]]:
        return [(x, y) for x, y in zip(self.steps, self.values, strict=True) if math.isfinite(y)]


def line_chart(caption: str, series: Sequence[Series], *, small: bool = False, smooth: bool = False) -> Markup:
    """Curves with a legend that states first and last value; nothing at all if no series has a value.

    ``small`` is a panel of a grid. ``smooth`` draws a running mean over a tenth of the steps and the raw curve faintly
    behind it; the legend then compares the first and the last such mean.
    """
    drawn = [s for s in series if s.points()]
    if not drawn:
        return Markup("")
    values = finite(y for s in drawn for _, y in s.points())
    steps = [x for s in drawn for x, _ in s.points()]
    width, height = (340.0, 170.0) if small else (720.0, 270.0)
    plot = Plot(width, height, (min(steps), max(steps)), nice_ticks(min(values), max(values), 4 if small else 5))
    marks, legend = [], []
    for i, one in enumerate(drawn):
        points = one.points()
        means = running_mean(points) if smooth else points
        if smooth and len(points) > 2:
            marks.append(_curve(plot, points, f"line s{i % 8} faint", one.name))
        marks.append(_curve(plot, means, f"line s{i % 8}", one.name))
        change = f"{number(means[0][1])} → {number(means[-1][1])}"
        legend.append((f"s{i % 8}", change if small else f"{one.name}: {change}"))
    axes = plot.axes(step_ticks(min(steps), max(steps), 4 if small else 6), "step")
    return figure(caption, canvas(width, height, caption, axes, *marks), legend, "chart small" if small else "chart")


def running_mean(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Centred mean over about a tenth of the points, narrower at the ends."""
    half = len(points) // 20
    out = []
    for i, (x, _) in enumerate(points):
        near = [y for _, y in points[max(0, i - half) : i + half + 1]]
        out.append((x, math.fsum(near) / len(near)))
    return out


def _curve(plot: Plot, points: Sequence[tuple[float, float]], css: str, name: str) -> Markup:
    title = element("title", f"{name}: {number(points[0][1])} to {number(points[-1][1])}")
    if len(points) == 1:
        x, y = points[0]
        return element("circle", title, cx=plot.x(x), cy=plot.y(y), r=3, class_=css.replace("line", "dot"))
    path = " ".join(f"{plot.x(x):.1f},{plot.y(y):.1f}" for x, y in points)
    return element("polyline", title, points=path, class_=css)
