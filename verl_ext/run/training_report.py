"""One page about any training run, from what it wrote: metrics, held-out evaluations and the recipe."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollout.errors import DataError
from verl_ext.run.gains import gain_in_words, paired_gain
from verl_ext.run.not_finite import run_in_words
from verl_ext.run.phases import seconds_of, step_seconds
from verl_ext.run.run_files import HELD_OUT, LIVE_METRICS, METRICS, read_metrics, scalar

if TYPE_CHECKING:
    from markupsafe import Markup

RESOLVED = "resolved.yaml"
RENAMED = {
    "actor/kl_loss": "kl",
    "actor/aux/video": "loss/video masks",
    "actor/aux/keyframe": "loss/keyframe masks",
    "train/loss": "loss/total",
    "lm": "loss/text",
    "mask_ce": "loss/mask cross-entropy",
    "dice": "loss/mask dice",
    "val/loss": "loss/held out",
}
"""verl's or our metric -> the page's name."""
CURVES = {"val/jf": "J&F of greedy dialogues", "val/reward/mean": "mean reward of sampled dialogues"}
NOT_A_KIND = ("count",)


def write_training_report(run_dir: Path, out: Path) -> Path:
    """Write the page of a supervised or reinforced run, finished or not, and return its path.

    Raises:
        DataError: the folder holds no metrics.
    """
    from eval.report.build import context
    from eval.report.inputs import ReportInput
    from eval.report.page import write_page

    rows = _rows(run_dir)
    settings = _settings(run_dir / RESOLVED)
    held_out = _held_out(run_dir / HELD_OUT)
    page = ReportInput(
        title=f"{settings.get('name', run_dir.name)}: {settings.get('stage', 'training')}",
        summary={"step_seconds": step_seconds(rows)},
        stages=(),
        rl_metrics=[row for row in map(step_row, rows) if len(row) > 1],
        warnings=[words] if (words := run_in_words(rows)) else [],
    )
    more = {
        "cards": _cards(rows, held_out),
        "held_out": _curves(held_out, CURVES),
        "held_out_kinds": _curves(held_out, _kinds(held_out), small=True),
        "record": _record(settings),
    }
    return write_page("training.html", context(page) | more, out)


def step_row(row: Mapping[str, Any]) -> dict[str, float]:
    """One step's metrics under the page's names; numbers only."""
    data = row["data"]
    out: dict[str, float] = {"step": float(row["step"])}
    for key, value in data.items():
        number = scalar(value)
        if number is None:
            continue
        if key.startswith(("reward/", "stop/")):
            out[key] = number
        elif key in RENAMED:
            out[RENAMED[key]] = number
    return out | {f"seconds/{name}": value for name, value in seconds_of(data).items() if name != "step"}


def _rows(run_dir: Path) -> list[dict[str, Any]]:
    """Metrics by step, those of a run that is still going on included."""
    found: dict[int, dict[str, Any]] = {}
    for name in (METRICS, LIVE_METRICS):
        for row in read_metrics(run_dir / name):
            found.setdefault(row["step"], {}).update(row["data"])
    if not found:
        raise DataError(
            f"{run_dir / METRICS}: no metrics; {run_dir} is not the folder of a finished quickstart, of a training run "
            "that has made a step, or of an evaluation"
        )
    return [{"step": step, "data": found[step]} for step in sorted(found)]


def _held_out(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    try:
        return [json.loads(line) for line in lines]
    except json.JSONDecodeError as e:
        raise DataError(f"{path}: line {len(lines)} or before is not JSON ({e}); --resume drops a torn line") from e


def _settings(path: Path) -> dict[str, Any]:
    """The recipe as the run wrote it, also if another version did."""
    from omegaconf import OmegaConf

    if not path.is_file():
        return {}
    values = OmegaConf.to_container(OmegaConf.load(path))
    return {str(k): v for k, v in values.items()} if isinstance(values, dict) else {}


def _record(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    from eval.report.page import facts

    return facts(settings)


def _cards(rows: Sequence[Mapping[str, Any]], held_out: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """(title, value, note) of the figures at the top."""
    steps = [row for row in rows if row["step"] > 0]
    cards = [("steps", str(steps[-1]["step"]) if steps else "0", "done")]
    for title, key, note in (
        ("reward", "reward/mean", "training clips, first and last step"),
        ("loss", "train/loss", "first and last step"),
    ):
        values = [v for row in steps if (v := scalar(row["data"].get(key))) is not None and math.isfinite(v)]
        if values:
            cards.append((title, f"{values[0]:.2f} → {values[-1]:.2f}", note))
    first, last = (held_out[0], held_out[-1]) if held_out else ({}, {})
    if len(held_out) > 1:
        if "rewards" in first and "rewards" in last:
            gain = paired_gain(first["rewards"], last["rewards"], "reward")
            note = f"steps {first['step']} to {last['step']}, the same prompts"
            cards.append(("held-out reward", gain_in_words(gain, "reward", 2), note))
        if "val/jf" in first and "val/jf" in last:
            value = f"{first['val/jf']:.1f} → {last['val/jf']:.1f}"
            cards.append(("held-out J&F", value, f"steps {first['step']} to {last['step']}"))
    seconds = [v for row in steps if (v := scalar(row["data"].get("timing_s/step"))) is not None]
    if seconds:
        cards.append(("time in steps", f"{math.fsum(seconds) / 60:.1f} min", f"{len(seconds)} steps"))
    return cards


def _kinds(held_out: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    prefix = "val/jf/"
    names = dict.fromkeys(key for row in held_out for key in row if key.startswith(prefix))
    return {k: k.removeprefix(prefix).replace("_", " ") for k in names if k.removeprefix(prefix) not in NOT_A_KIND}


def _curves(held_out: Sequence[Mapping[str, Any]], names: Mapping[str, str], small: bool = False) -> list[Markup]:
    from eval.report.charts import Series, line_chart

    steps = [float(row["step"]) for row in held_out]
    charts = []
    for key, title in names.items():
        values = [v if (v := scalar(row.get(key))) is not None else math.nan for row in held_out]
        charts.append(line_chart(title, [Series(title, steps, values)], small=small))
    return [chart for chart in charts if chart]
