"""A comparison on the screen and on disk: table, JSON, CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from rich.console import Console
from rich.table import Table

from data_construction.atomic import write_whole
from eval.report.compare import INTERVAL, ClipRow, Comparison, Difference, Row
from eval.report.page import signed
from eval.scores.words import HEADINGS

MOST = 10
LONGEST = 60
"""Letters of an expression that a line of the screen holds beside its figures."""


def write_comparison(comparison: Comparison, titles: tuple[str, str], folder: Path) -> tuple[Path, Path]:
    """``comparison.json`` and ``comparison.csv`` in ``folder``, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    json_path, csv_path = folder / "comparison.json", folder / "comparison.csv"
    write_whole(json_path, comparison_json(comparison, titles) + "\n")
    write_whole(csv_path, comparison_csv(comparison))
    return json_path, csv_path


def comparison_json(comparison: Comparison, titles: tuple[str, str]) -> str:
    """The same as text."""
    return json.dumps({"a": titles[0], "b": titles[1], **comparison.to_dict()}, indent=1, ensure_ascii=False)


def comparison_csv(comparison: Comparison) -> str:
    """One row an expression."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*(field.name for field in fields(Row)), "change"])
    for row in comparison.rows:
        writer.writerow([*asdict(row).values(), row.change])
    return out.getvalue()


def comparison_table(comparison: Comparison, titles: tuple[str, str], most: int = MOST, width: int = 120) -> str:
    """Plain text: the difference overall and by group, then the clips and expressions that gain and lose the most."""
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None, markup=False, highlight=False)
    name = HEADINGS.get(comparison.headline, comparison.headline)
    for letter, title, value in zip("AB", titles, (comparison.headline_a, comparison.headline_b), strict=True):
        console.print(f"{letter} = {title}, the benchmark's own {name} {value:.1f}")
    console.print(f"{in_words(comparison)}\n")
    table = Table(title="J&F in percent; change = B - A", title_justify="left", pad_edge=False)
    for name in ("expressions", "n", "A", "B", "change", f"{INTERVAL} % interval"):
        table.add_column(name, justify="left" if name == "expressions" else "right")
    table.add_row(*_cells("all", comparison.overall), end_section=True)
    for labels in comparison.groups.values():
        for label, found in labels.items():
            table.add_row(*_cells(label, found))
        table.add_section()
    console.print(table)
    clips = _clip_ends(comparison.clips, most)
    _list(console, "clips that change most", [(row.clip, row, f"{row.expressions} expressions") for row in clips])
    for title, rows in (("gains", comparison.gains(most)), ("losses", comparison.losses(most))):
        _list(console, f"largest {title} by expression", [(row.name, row, _remark(row)) for row in rows])
    return out.getvalue()


def in_words(comparison: Comparison) -> str:
    """One sentence that claims no more than the figures do."""
    d = comparison.overall
    se = "" if d.mean.se is None else f" ± {d.mean.se:.1f}"
    head = f"B - A: {signed(d.mean.mean)}{se} J&F over {d.mean.n} expressions of {d.clips} clips, paired"
    if d.low is None:
        return f"{head}; one clip alone shows nothing."
    said = "more than chance" if d.is_clear else "no difference shown"
    return f"{head}; {INTERVAL} % interval over clips {signed(d.low)} to {signed(d.high)}: {said}."


def _cells(label: str, d: Difference) -> list[str]:
    se = "" if d.mean.se is None else f" ± {d.mean.se:.1f}"
    interval = "-" if d.low is None else f"{signed(d.low)} to {signed(d.high)}"
    return [label, str(d.mean.n), f"{d.a:.1f}", f"{d.b:.1f}", f"{signed(d.mean.mean)}{se}", interval]


def _clip_ends(clips: Sequence[ClipRow], most: int) -> list[ClipRow]:
    moved = sorted((row for row in clips if row.change), key=lambda row: (-abs(row.change), row.clip))
    return sorted(moved[:most], key=lambda row: -row.change)


def _list(console: Console, title: str, rows: Sequence[tuple[str, Row | ClipRow, str]]) -> None:
    if not rows:
        return
    table = Table(title=title, title_justify="left", pad_edge=False, show_edge=False)
    for name in ("name", "A", "B", "change"):
        table.add_column(name, justify="left" if name == "name" else "right", no_wrap=name != "name")
    table.add_column("", no_wrap=True)
    for name, row, remark in rows:
        table.add_row(name, f"{row.jf_a:.1f}", f"{row.jf_b:.1f}", signed(row.change), remark)
    console.print()
    console.print(table)


def _remark(row: Row) -> str:
    gone = [side for side, missing in (("A", row.missing_a), ("B", row.missing_b)) if missing]
    text = (f"[no prediction in {' and '.join(gone)}] " if gone else "") + " ".join(row.text.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"
