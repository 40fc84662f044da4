"""A check report as one screen of text."""

from __future__ import annotations

import io
from collections import Counter
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from data_construction.check import CheckReport, SplitCounts

SHOWN_PROBLEMS = 12


def render_report(report: CheckReport, width: int) -> str:
    """Plain text: a table of counts by split, then the problems by code and the first of them in full."""
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=False)
    table = Table(title=f"{report.name} at {report.root}")
    table.add_column("")
    for split in report.splits:
        table.add_column(split, justify="right")
    for label, values in _rows(list(report.splits.values())):
        table.add_row(label, *values)
    console.print(table)
    if report.ok:
        console.print("no problems found")
        return out.getvalue()
    codes = Counter(p.code for p in report.problems)
    console.print(f"{len(report.problems)} problems: " + ", ".join(f"{c} {n}" for c, n in codes.most_common()))
    for problem in report.problems[:SHOWN_PROBLEMS]:
        console.print(f"- [{problem.code}] {problem}", markup=False, soft_wrap=True)
    if len(report.problems) > SHOWN_PROBLEMS:
        console.print(f"… and {len(report.problems) - SHOWN_PROBLEMS} more")
    return out.getvalue()


def _rows(splits: list[SplitCounts]) -> list[tuple[str, list[str]]]:
    rows = [(label, [str(getattr(s, label)) for s in splits]) for label in ("clips", "frames", "expressions")]
    for label in ("rl_annotations", "traces"):
        if any(getattr(s, label) for s in splits):
            rows.append((label, [str(getattr(s, label)) for s in splits]))
    for title, attribute in (("type", "types"), ("kind", "kinds"), ("targets", "targets")):
        counts: list[dict[str, int]] = [getattr(s, attribute) for s in splits]
        if title == "type" and all(set(c) <= {"untyped"} for c in counts):
            continue  # Only ReVOS has types.
        for key in dict.fromkeys(k for c in counts for k in c):
            rows.append((f"{title} {escape(key)}", [str(c.get(key, 0)) for c in counts]))
    lowest = ["-" if s.self_jf is None else f"{s.self_jf:.4f}" for s in splits]
    rows.append(("expressions set aside", [str(s.set_aside) for s in splits]))
    return [*rows, ("lowest J&F of ground truth against itself", lowest)]
