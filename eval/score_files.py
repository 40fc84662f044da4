"""Scores on disk and on the screen: ``scores.json``, ``scores.csv`` and a table of plain text."""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import asdict, fields
from pathlib import Path

from rich.console import Console
from rich.table import Table

from eval.baselines import NAMES
from eval.score_types import METRICS, ExpressionScore, GroupScores, Mean, Scores
from rollout.errors import DataError

DASH = "-"

HEADINGS = {
    "jf": "J&F",
    "j": "J",
    "f": "F",
    "j_visible": "J visible",
    "interval_iou": "tIoU",
    "keyframe_hit": "keyframe",
}


def write_scores(scores: Scores, folder: Path) -> tuple[Path, Path]:
    """Write ``scores.json`` and ``scores.csv`` into ``folder``, each whole or not at all; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    json_path, csv_path = folder / "scores.json", folder / "scores.csv"
    _write_whole(json_path, json.dumps(scores.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    _write_whole(csv_path, scores_csv(scores))
    return json_path, csv_path


def read_scores(path: Path) -> Scores:
    """Scores back from ``scores.json``. Raises DataError if the file is not one."""
    try:
        return Scores.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a scores file ({type(error).__name__}: {error})") from error


def scores_csv(scores: Scores) -> str:
    """One row an expression, every field of ``ExpressionScore``; a baseline is a column ``baseline_<name>``."""
    plain = [field.name for field in fields(ExpressionScore) if field.name != "baselines"]
    names = sorted({name for row in scores.expressions for name in row.baselines})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*plain, *(f"baseline_{name}" for name in names)])
    for row in scores.expressions:
        values = asdict(row)
        writer.writerow([*(values[name] for name in plain), *(row.baselines.get(name) for name in names)])
    return out.getvalue()


def scores_table(scores: Scores, width: int = 120) -> str:
    """Plain text: overall, types and kinds, each mean with its standard error, baselines beside."""
    baselines = list(scores.overall.baselines)
    table = Table(title="percent; ± is one standard error", title_justify="left", pad_edge=False)
    table.add_column("expressions")
    table.add_column("n", justify="right")
    for name in (*METRICS, *baselines):
        table.add_column(HEADINGS.get(name, name), justify="right")
    for groups in ([scores.overall], scores.by_type.values(), scores.by_kind.values()):
        for group in groups:
            table.add_row(*_table_row(group, baselines))
        table.add_section()
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None)
    console.print(table)
    if baselines:
        console.print("J&F of baselines: " + "; ".join(f"{b} = {NAMES.get(b, b)}" for b in baselines), highlight=False)
    if scores.missing:
        console.print(f"{len(scores.missing)} missing, each counts 0: " + ", ".join(scores.missing), highlight=False)
    return out.getvalue()


def mean_text(mean: Mean | None) -> str:
    """``62.1 ± 4.0``, or a dash where the score is not defined."""
    if mean is None or mean.mean is None:
        return DASH
    return f"{mean.mean:.1f}" if mean.se is None else f"{mean.mean:.1f} ± {mean.se:.1f}"


def plain_mean(mean: Mean | None) -> str:
    """``62.1``, or a dash."""
    return DASH if mean is None or mean.mean is None else f"{mean.mean:.1f}"


def _table_row(group: GroupScores, baselines: list[str]) -> list[str]:
    # The headline score with its error, the others without: a table that wraps is not read.
    others = [plain_mean(group.metrics.get(name)) for name in METRICS[1:]]
    blind = [plain_mean(group.baselines.get(name)) for name in baselines]
    return [group.name, str(group.count), mean_text(group.metrics["jf"]), *others, *blind]


def _write_whole(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
