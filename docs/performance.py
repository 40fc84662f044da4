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
    if content.get("benchmark") == "grpo_step" and "arms" in content:
        body = step_table(content["arms"])
    elif content.get("benchmark") == "grpo_step_released_way":
        body = step_table({"released way": content, "ours": content["ours"]})
    else:
        body = figure_table(content)
    versions = content.get("versions", {})
    named = ", ".join(f"{name} {versions[name]}" for name in ("torch", "verl", "vllm", "sam2") if name in versions)
    facts = "; ".join(part for part in (content["date"][:10], str(content["device"]), named) if part)
    return "\n".join([f"## {path.stem.replace('_', ' ')}\n", f"{facts}\n", *body, ""])


def step_table(arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Seconds by phase of an RL step, a column an arm; with two arms, how many times faster the second is."""
    names, pair = [*arms], len(arms) == 2
    first, last = arms[names[0]], arms[names[-1]]
    out = [f"| | {' | '.join(names)} |{' ratio |' if pair else ''}", f"|---|{'---|' * (len(arms) + pair)}"]
    for phase in last["step_seconds"]:
        seconds = [arm["step_seconds"].get(phase) for arm in arms.values()]
        cells = ["" if s is None else f"{s:.2f}" for s in seconds]
        ratio = f" {seconds[0] / seconds[1]:.1f} |" if pair and None not in seconds else " |" if pair else ""
        out.append(f"| {phase.replace('_', ' ')}, s | {' | '.join(cells)} |{ratio}")
    facts = {"rollouts per step": "rollouts", "tokens per step": "tokens", "update mfu": "MFU of the update"}
    for key, words in (*facts.items(), ("peak gib", "peak of the actor, GiB")):
        values = [arm.get(key.replace(" ", "_")) for arm in (first, last)[: len(arms)]]
        if any(v is not None for v in values):
            cells = ["" if v is None else f"{v:.3g}" if v < 1000 else f"{v:.0f}" for v in values]
            out.append(f"| {words} | {' | '.join(cells)} |{' |' if pair else ''}")
    return out


def figure_table(content: Mapping[str, Any]) -> list[str]:
    """Every number of a file."""
    figures = [*numbers({k: v for k, v in content.items() if k not in ENVIRONMENT})]
    rows = [f"| {name} | {value} |" for name, value in figures[:MOST_FIGURES]]
    more = [f"\n{len(figures) - MOST_FIGURES} more figures are in the file."] if len(figures) > MOST_FIGURES else []
    return ["| figure | value |", "|---|---|", *rows, *more]


def numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(name, value) of every number in a nested mapping, names joined by slashes; of lists, those of named things."""
    for key, value in values.items():
        name = f"{prefix}{str(key).replace('_', ' ').replace('|', '/')}"
        if isinstance(value, Mapping):
            yield from numbers(value, f"{name} / ")
        elif isinstance(value, list) and value and all(isinstance(v, Mapping) and "name" in v for v in value):
            yield from numbers({v["name"]: v for v in value}, f"{name} / ")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
