"""A template and its context to one HTML file, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from data_construction.atomic import write_whole
from eval.report.charts.svg import number
from eval.scores.files import mean_text, plain_mean


def write_page(template: str, context: Mapping[str, Any], out: Path) -> Path:
    """Write the page to ``out`` and return its path.

    All text is escaped by the template engine, and a content policy in the page forbids scripts and outside addresses.
    """
    environment = Environment(
        loader=PackageLoader("eval.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(mean=mean_text, plain_mean=plain_mean, number=number, signed=signed)
    page = environment.get_template(template).render(context)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, page)
    return out


def signed(value: float | None, decimals: int = 1) -> str:
    """``+3.1``, with a real minus sign; a dash for None."""
    return "-" if value is None else f"{value:+.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def facts(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """(name, value) of a nested mapping, names joined by dots, empty values left out."""
    out: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            out += facts(value, f"{name}.")
        elif value not in (None, "", [], ()):
            out.append((name.replace("_", " "), str(value)))
    return out
