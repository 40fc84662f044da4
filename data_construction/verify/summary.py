"""What was verified and why the rest was not, as text."""

from __future__ import annotations

import io

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data_construction.traces.trace import TYPE_NAMES
from data_construction.verify.registry import check_names
from data_construction.verify.report import DUPLICATE, NO_DATA, UNREADABLE, VerifyReport

ABOUT = {
    UNREADABLE: "the line is no trace",
    NO_DATA: "the data set has no such clip, expression or masks",
    DUPLICATE: "nearly the text of an earlier trace",
    "judge": "the second model says no",
    "status": "was not finished",
}


def summary_table(report: VerifyReport, width: int = 110) -> str:
    """Plain text: verdicts by check, then by kind of expression."""
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=False)
    table = Table(title=f"{report.total} traces")
    table.add_column("verdict")
    table.add_column("traces", justify="right")
    table.add_column("share %", justify="right")
    table.add_column("what the check looks at")
    about = {**check_names(), **ABOUT}
    table.add_row("verified", str(report.verified), _percent(report.verified, report.total), "")
    table.add_section()
    for check, n in report.rejected.most_common():
        table.add_row(escape(check), str(n), _percent(n, report.total), escape(about.get(check, "")))
    console.print(table)
    kinds = Table(title="by kind of expression")
    kinds.add_column("kind")
    for name in ("verified", "rejected", "verified %"):
        kinds.add_column(name, justify="right")
    for kind, counts in sorted(report.kinds.items()):
        ok, bad = counts["verified"], counts["rejected"]
        kinds.add_row(escape(_kind(kind)), str(ok), str(bad), _percent(ok, ok + bad))
    if len(report.kinds) > 1:
        console.print(kinds)
    if report.to_retry:
        console.print(f"{report.to_retry} have to be made again: retry.jsonl")
    if report.open:
        reasons = ", ".join(f"{n} {reason}" for reason, n in report.open.most_common())
        first = f"; the first: {report.first_open}" if report.first_open else ""
        what = f"{report.open.total()} have no verdict ({reasons}); the same command asks again{first}"
        console.print(what, markup=False)
    if report.stopped:
        console.print(f"stopped: {report.stopped}", markup=False)
    if report.set_aside:
        console.print(f"{report.set_aside} could not be checked; the first: {report.first_aside}", markup=False)
    if report.repeated:
        what = "ids come twice; only the first trace of each counts. The first such id:"
        console.print(f"{what} {report.repeated}", markup=False)
    if report.torn:
        console.print(f"not read: {report.torn}", markup=False)
    return out.getvalue()


def _kind(kind: str) -> str:
    return TYPE_NAMES.get(int(kind), kind) if kind.isdigit() else kind if kind not in ("", "None") else "untyped"


def _percent(n: int, total: int) -> str:
    return f"{100 * n / total:.1f}" if total else "-"
