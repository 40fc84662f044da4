"""Scales, ticks, axes and escaped elements that all charts share. Lengths are SVG user units."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

COLOURS = 8
"""Series colours in the style sheet: classes ``s0`` … ``s7``."""


def element(name: str, *children: str, **attributes: object) -> Markup:
    """``<name attribute="…">children</name>``; text children and attribute values are escaped, Markup is not.

    ``class_`` becomes ``class`` and other underscores become hyphens.
    """
    parts = []
    for key, value in attributes.items():
        if value is not None:
            text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
            parts.append(Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), text))
    body = Markup("").join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), Markup("").join(parts), body)


def figure(caption: str, svg: Markup, legend: Sequence[tuple[str, str]] = (), css: str = "chart") -> Markup:
    """A captioned chart; ``legend`` is (CSS class, text) pairs."""
    keys = [element("li", element("span", class_=f"key {css_class}"), text) for css_class, text in legend]
    parts = [element("figcaption", caption), element("div", svg, class_="plot")]
    if keys:
        parts.append(element("ul", *keys, class_="legend"))
    return element("figure", *parts, class_=css)


def canvas(width: float, height: float, label: str, *children: str) -> Markup:
    """The ``<svg>`` itself, scaled by its width; ``label`` is what a screen reader says."""
    return element("svg", *children, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=label)


def text(x: float, y: float, content: str, anchor: str = "start", css: str = "tick") -> Markup:
    return element("text", content, x=x, y=y, text_anchor=anchor, class_=css)


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> Markup:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=css)


def number(value: float) -> str:
    """A short label: two or three significant digits, no trailing zeros, a real minus sign."""
    digits = (
        0
        if abs(value) >= 100
        else 1
        if abs(value) >= 10
        else 2
        if abs(value) >= 0.1
        else 3
        if abs(value) >= 0.01
        else 4
    )
    out = f"{value:.{digits}f}"
    out = out.rstrip("0").rstrip(".") if "." in out else out
    return "0" if out in ("", "-0") else out.replace("-", "\N{MINUS SIGN}")


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round values that cover low..high."""
    if high <= low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / max(count - 1, 1)
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(m * size for m in (1, 2, 2.5, 5, 10) if m * size >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


@dataclass(frozen=True)
class Plot:
    """A plot area with linear scales inside a canvas of width x height."""

    width: float
    height: float
    x_range: tuple[float, float]
    y_ticks: list[float]
    left: float = 48
    right: float = 12
    top: float = 10
    bottom: float = 34

    def x(self, value: float) -> float:
        low, high = self.x_range
        share = 0.5 if high == low else (value - low) / (high - low)
        return self.left + share * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return self.height - self.bottom - (value - low) / (high - low) * (self.height - self.top - self.bottom)

    def axes(self, x_ticks: Sequence[float], x_label: str) -> Markup:
        """Horizontal grid lines with their values, and the x axis."""
        parts = []
        for tick in self.y_ticks:
            y = self.y(tick)
            parts.append(line(self.left, y, self.width - self.right, y, "axis" if tick == 0 else "grid"))
            parts.append(text(self.left - 6, y + 4, number(tick), "end"))
        base = self.height - self.bottom
        parts.extend(text(self.x(tick), base + 15, number(tick), "middle") for tick in x_ticks)
        parts.append(text((self.left + self.width - self.right) / 2, self.height - 4, x_label, "middle"))
        return Markup("").join(parts)


def step_ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round whole numbers inside low..high, for an axis of steps."""
    ticks = [t for t in nice_ticks(low, high, count) if low <= t <= high and t == int(t)]
    return ticks or [low]
