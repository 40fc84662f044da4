"""Scores on disk and on the screen: ``scores.json``, ``scores.csv`` and a table of plain text."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path

from rich.console import Console
from rich.table import Table

from data_construction.atomic import write_whole
from eval.results.unreadable import unreadable_lines
from eval.scorers.baselines import NAMES
from eval.scorers.types import ExpressionScore, GroupScores, Mean, Scores
from eval.scores.words import HEADINGS, headings_of, metric_names, published_of, remarks
from rollout.errors import DataError

SCORES_FILE = "scores.json"
DASH = "-"


def write_scores(scores: Scores, folder: Path) -> tuple[Path, Path]:
    """Write ``scores.json`` and ``scores.csv`` into ``folder``, each whole or not at all; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    json_path, csv_path = folder / SCORES_FILE, folder / "scores.csv"
    write_whole(json_path, json.dumps(scores.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_whole(csv_path, scores_csv(scores))
    return json_path, csv_path


def read_scores(path: Path) -> Scores:
    """Scores back from ``scores.json``. Raises DataError if the file is not one."""
    try:
        return Scores.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a scores file ({type(error).__name__}: {error})") from error


def scores_csv(scores: Scores) -> str:
    """One row an expression, every field of ``ExpressionScore``; a baseline is a column ``baseline_<name>``."""
    nested = ("baselines", "extra", "tracks")
    plain = [field.name for field in fields(ExpressionScore) if field.name not in nested]
    names = sorted({name for row in scores.expressions for name in row.baselines})
    extra = list(dict.fromkeys(name for row in scores.expressions for name in row.extra))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*plain, *extra, *(f"baseline_{name}" for name in names)])
    for row in scores.expressions:
        values = {**asdict(row), **row.extra}
        writer.writerow([*(values[name] for name in (*plain, *extra)), *(row.baselines.get(name) for name in names)])
    return out.getvalue()


def scores_table(scores: Scores, width: int = 120) -> str:
    """Plain text: overall, then a benchmark's groups, else types and kinds; means beside those of the baselines."""
    baselines, info = list(scores.overall.baselines), scores.info
    metrics, headings = metric_names(scores), headings_of(scores)
    title = f"{info['benchmark']} ({info['dataset']} {info['split']}), " if "benchmark" in info else ""
    table = Table(title=f"{title}percent; ± is one standard error", title_justify="left", pad_edge=False)
    table.add_column("expressions")
    table.add_column("n", justify="right")
    for name in (*metrics, *baselines):
        table.add_column(headings.get(name, name), justify="right")
    sections = list(scores.groups.values()) or [scores.by_type, scores.by_kind]
    for groups in ({"": scores.overall}, *sections):
        for group in groups.values():
            table.add_row(*_table_row(group, metrics, baselines))
        table.add_section()
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None)
    console.print(table)
    for line in _below(scores):
        console.print(line, highlight=False, markup=False)
    return out.getvalue()


def _below(scores: Scores) -> Iterator[str]:
    """What stands under the table."""
    yield from reply_lines(scores)
    if baselines := list(scores.overall.baselines):
        yield "J&F of baselines: " + "; ".join(f"{b} = {NAMES.get(b, b)}" for b in baselines)
    published = [
        f"{method}: " + ", ".join(f"{HEADINGS.get(m, m)} {v:.1f}" for m, v in values.items())
        for method, values in published_of(scores).items()
        if values
    ]
    if published:
        yield "published: " + "; ".join(published)
    yield from remarks(scores)


def reply_lines(scores: Scores) -> Iterator[str]:
    """What could not be read of the policy's replies, and with which words it was asked."""
    protocol = scores.info.get("protocol", {})
    asked, mark = str(protocol.get("prompt_set") or ""), protocol.get("prompts")
    yield from unreadable_lines(scores.info.get("unreadable", {}), scores.info.get("dialogues", 0), asked)
    if asked:
        yield f"asked with prompt set {asked}" + (f" ({mark})" if mark else "")


def mean_text(mean: Mean | None) -> str:
    """``62.1 ± 4.0``, or a dash where the score is not defined."""
    if mean is None or mean.mean is None:
        return DASH
    return f"{mean.mean:.1f}" if mean.se is None else f"{mean.mean:.1f} ± {mean.se:.1f}"


def plain_mean(mean: Mean | None) -> str:
    """``62.1``, or a dash."""
    return DASH if mean is None or mean.mean is None else f"{mean.mean:.1f}"


def _table_row(group: GroupScores, metrics: list[str], baselines: list[str]) -> list[str]:
    # J&F with its error, the others without: a table that wraps is not read.
    shown = [(mean_text if name == "jf" else plain_mean)(group.metrics.get(name)) for name in metrics]
    blind = [plain_mean(group.baselines.get(name)) for name in baselines]
    return [group.name, str(group.count), *shown, *blind]
