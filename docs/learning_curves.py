"""The picture of ``learning.md``, from ``benchmarks/results/exploring.json``: ``python docs/learning_curves.py``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "exploring.json"
PICTURE = ROOT / "docs" / "pictures" / "exploring.svg"
METRIC, WORDS = "reward/mask_iou", "mask reward of sampled rollouts"
LOW, HIGH = -1.0, 1.5
"""That the reward can be, whatever the run."""
COLOURS = ("#0b6e99", "#c2571a", "#3a8f3a", "#8a4fbf", "#b01e4c", "#777777")
"""By arm; the seeds of one are alike."""
WIDTH, HEIGHT, LEFT, TOP = 640, 360, 50, 20


def picture(curves: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """A line for each arm and seed over RL steps, each value the mean of up to five around it."""
    found = {key: smooth(by_metric[METRIC]) for key, by_metric in curves.items() if by_metric.get(METRIC)}
    steps = max((len(values) for values in found.values()), default=1)
    names = list(dict.fromkeys(key.split("/")[0] for key in found))

    def at(step: float, value: float) -> str:
        x = LEFT + (WIDTH - LEFT - 20) * (step - 1) / max(1, steps - 1)
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
    for key, values in found.items():
        colour = COLOURS[names.index(key.split("/")[0]) % len(COLOURS)]
        points = " ".join(at(step, value) for step, value in enumerate(values, 1))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5">')
        parts.append(f"<title>{key}</title></polyline>")
    for i, name in enumerate(names):
        colour = COLOURS[i % len(COLOURS)]
        parts.append(f'<text x="{LEFT + 10}" y="{TOP + 12 + 16 * i}" fill="{colour}">{name.replace("_", " ")}</text>')
    return "\n".join([*parts, "</svg>", ""])


def smooth(values: Sequence[float]) -> list[float]:
    near = [values[max(0, i - 2) : i + 3] for i in range(len(values))]
    return [sum(some) / len(some) for some in near]


if __name__ == "__main__":
    PICTURE.write_text(picture(json.loads(RESULT.read_text(encoding="utf-8"))["curves"]), encoding="utf-8")
    sys.stdout.write(f"{PICTURE}\n")
