"""How values are spread: one bar a range of values."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from eval.report.charts.svg import Plot, canvas, element, figure, line, nice_ticks, number


def histogram(
    caption: str, values: Sequence[float], low: float, high: float, x_label: str, *, bars: int = 20, zero: bool = False
) -> Markup:
    """``bars`` ranges of equal width from ``low`` to ``high``, each without its upper end but the last.

    ``zero`` colours what lies below 0 apart and marks 0. Nothing for no values.
    """
    if not values:
        return Markup("")
    width = (high - low) / bars
    counts = [0] * bars
    for value in values:
        counts[min(max(int((value - low) / width + 1e-9), 0), bars - 1)] += 1
    plot = Plot(720, 220, (low, high), nice_ticks(0, max(counts)))
    marks = []
    for i, count in enumerate(counts):
        start, stop = low + i * width, low + (i + 1) * width
        if count:
            x, y = plot.x(start), plot.y(count)
            title = element("title", f"{number(start)} to {number(stop)}: {count} of {len(values)}")
            rect = {"x": x + 1, "y": y, "width": plot.x(stop) - x - 2, "height": plot.y(0) - y}
            below = zero and stop <= 1e-9
            marks.append(element("rect", title, **rect, class_="bar s1" if below else "bar s0"))
    if zero:
        marks.append(line(plot.x(0), plot.top, plot.x(0), plot.y(0), "whisker"))
    ticks = [low + i * (high - low) / 4 for i in range(5)]
    return figure(caption, canvas(plot.width, plot.height, caption, plot.axes(ticks, x_label), *marks))
