"""The tables of ``performance.md``: ``python docs/performance.py`` writes them from ``benchmarks/results``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "benchmarks" / "results"
HEAD = """# Performance

Every figure is a file in `benchmarks/results`, written by the command of its name in `benchmarks/` (`python
benchmarks/NAME.py --json FILE`), with date, device and versions. This page is written from those files by
`python docs/performance.py`.
"""
ENVIRONMENT = (
    "benchmark",
    "date",
    "device",
    "versions",
    "cpu_cores",
    "python",
    "settings",
    "rows",
    "threads",
    "repeats",
)
MOST_FIGURES = 40


def page() -> str:
    """The whole page: a section a file."""
    return "\n".join([HEAD, *(section(path) for path in sorted(RESULTS.glob("*.json")))])


def section(path: Path) -> str:
    content = json.loads(path.read_text(encoding="utf-8"))
    versions = content.get("versions", {})
    named = ", ".join(f"{name} {versions[name]}" for name in ("torch", "verl", "vllm", "sam2") if name in versions)
    facts = "; ".join(part for part in (content["date"][:10], str(content["device"]), named) if part)
    figures = [*numbers({k: v for k, v in content.items() if k not in ENVIRONMENT})]
    rows = [f"| {name} | {value} |" for name, value in figures[:MOST_FIGURES]]
    more = [f"\n{len(figures) - MOST_FIGURES} more figures are in the file."] if len(figures) > MOST_FIGURES else []
    return "\n".join(
        [f"## {path.stem.replace('_', ' ')}\n", f"{facts}\n", "| figure | value |", "|---|---|", *rows, *more, ""]
    )


def numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(name, value) of every number in a nested mapping; names are joined by slashes, lists left to the file."""
    for key, value in values.items():
        name = f"{prefix}{str(key).replace('_', ' ').replace('|', '/')}"
        if isinstance(value, Mapping):
            yield from numbers(value, f"{name} / ")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
