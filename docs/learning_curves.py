"""The pictures of ``learning.md``, from ``benchmarks/results/exploring*.json``: ``python docs/learning_curves.py``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PICTURES = ROOT / "docs" / "pictures"
WORLDS = ("exploring", "exploring_twins")
"""Results that are drawn, each into a picture of its name."""
METRIC, WORDS = "reward/mask_iou", "mask reward of sampled rollouts"
LOW, HIGH = -1.0, 1.5
"""That the reward can be, whatever the run."""
COLOURS = (
    *("#0b6e99", "#c2571a", "#3a8f3a", "#8a4fbf", "#b01e4c", "#777777", "#00a5a8", "#d4a017", "#5a3d1e", "#e377c2"),
    *("#003f5c", "#7fb800", "#ff6f61", "#4b4bff"),
)
"""By arm."""
WIDTH, HEIGHT, LEFT, TOP, KEY = 820, 360, 50, 20, 260
"""``KEY``: right of the lines, for the arms' names with their numbers of seeds."""


def picture(curves: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """A line for each arm over RL steps, the mean of its seeds and, at each step, of up to five around it."""
    runs: dict[str, list[Sequence[float]]] = {}
    for key, by_metric in curves.items():
        if values := by_metric.get(METRIC):
            runs.setdefault(key.split("/")[0], []).append(values)
    found = {arm: smooth([sum(at) / len(at) for at in zip(*seeds, strict=False)]) for arm, seeds in runs.items()}
    steps = max((len(values) for values in found.values()), default=1)

    def at(step: float, value: float) -> str:
        x = LEFT + (WIDTH - LEFT - KEY) * (step - 1) / max(1, steps - 1)
        return f"{x:.1f},{TOP + (HEIGHT - TOP - 50) * (HIGH - value) / (HIGH - LOW):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<polyline points="{at(1, HIGH)} {at(1, LOW)} {at(steps, LOW)}" fill="none" stroke="#444"/>',
        f'<polyline points="{at(1, 0)} {at(steps, 0)}" fill="none" stroke="#ccc"/>',
    ]
    for value in (LOW, 0.0, 0.5, 1.0, HIGH):
        parts.append(f'<text x="14" y="{float(at(1, value).split(",")[1]) + 4:.1f}">{value:g}</text>')
    for step in sorted({1, *range(10, steps + 1, 10), steps}):
        parts.append(f'<text x="{float(at(step, LOW).split(",")[0]) - 6:.1f}" y="{HEIGHT - 32}">{step}</text>')
    parts.append(f'<text x="{LEFT + 180}" y="{HEIGHT - 10}">RL step; {WORDS}</text>')
    for i, (name, values) in enumerate(found.items()):
        colour = COLOURS[i % len(COLOURS)]
        points = " ".join(at(step, value) for step, value in enumerate(values, 1))
        said = f"{name.replace('_', ' ')} ({len(runs[name])})"
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5">')
        parts.append(f"<title>{said}</title></polyline>")
        parts.append(f'<text x="{WIDTH - KEY + 8}" y="{TOP + 12 + 16 * i}" fill="{colour}">{said}</text>')
    return "\n".join([*parts, "</svg>", ""])


def smooth(values: Sequence[float]) -> list[float]:
    near = [values[max(0, i - 2) : i + 3] for i in range(len(values))]
    return [sum(some) / len(some) for some in near]


def pictures() -> dict[Path, str]:
    """By file."""
    read = {name: json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")) for name in WORLDS}
    return {PICTURES / f"{name}.svg": picture(found["curves"]) for name, found in read.items()}


if __name__ == "__main__":
    for file, drawn in pictures().items():
        file.write_text(drawn, encoding="utf-8")
        sys.stdout.write(f"{file}\n")
