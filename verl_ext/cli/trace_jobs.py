"""``videoseg data export`` and ``view`` from their options to their last line."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from rollout.errors import DataError, RecipeError
from verl_ext.cli.progress import progress_bar

if TYPE_CHECKING:
    from data_construction.traces import Sources
    from data_construction.view import Entry

MOST_NAMED = 10
VERDICTS = ("", "verified", "rejected", "unchecked")


@dataclass(frozen=True)
class ExportRequest:
    """The options of ``videoseg data export``."""

    source: Path
    out: Path
    to: str
    roots: tuple[str, ...]
    dataset: str
    split: str
    name: str
    images: Literal["link", "copy", "embed"] | None
    factor: int
    side: int


def run_export(r: ExportRequest) -> bool:
    """True if every verified trace was written. Raises DataError."""
    from data_construction.export import export
    from data_construction.traces import trace_files
    from data_construction.traces.shown import ImageSizes

    source = r.source / "verified.jsonl" if (r.source / "verified.jsonl").is_file() else trace_files(r.source)
    if not r.roots:
        raise DataError("the frames' folder is needed: add --root PATH")
    with progress_bar(_stderr()) as progress:
        report = export(
            source, r.out, _sources(r), r.to, r.name, r.images, ImageSizes(factor=r.factor, side=r.side),
            paced(progress, source),
        )  # fmt: skip
    typer.echo(f"{report.written} traces: " + ", ".join(str(file) for file in report.files))
    if report.rejected:
        typer.echo(f"{report.rejected} that are not verified were left out")
    _name(report.set_aside, "could not be exported")
    if report.torn:
        typer.echo(f"not read: {report.torn}", err=True)
    return not report.set_aside


def run_import(source: Path, out: Path) -> None:
    """Back to traces. Raises DataError."""
    from data_construction.export import import_traces

    typer.echo(f"{import_traces(source, out)} traces: {out}")


@dataclass(frozen=True)
class ViewRequest:
    """The options of ``videoseg data view``."""

    traces: Path
    out: Path
    roots: tuple[str, ...]
    dataset: str
    split: str
    limit: int
    verdict: str
    kind: str
    seed: int


def run_view(r: ViewRequest) -> str:
    """What to tell the user. Raises DataError, RecipeError."""
    from data_construction.view import write_gallery

    if r.verdict not in VERDICTS:
        raise RecipeError(f"--verdict {r.verdict}: expected one of {', '.join(VERDICTS[1:])}")

    def wanted(entry: Entry) -> bool:
        return r.verdict in ("", entry.verdict) and r.kind in ("", entry.trace.kind)

    with progress_bar(_stderr()) as progress:
        report = write_gallery(r.traces, r.out, _sources(r), r.limit, r.seed, wanted, f"Traces of {r.traces}", progress)
    _name(report.problems, "could not be drawn or read")
    return f"{report.path}: {report.shown} of {report.total} traces"


def _sources(r: ExportRequest | ViewRequest) -> Sources:
    from data_construction.traces import Sources

    return Sources.parse(r.roots, r.dataset, r.split)


def _name(problems: Sequence[str], what: str) -> None:
    for problem in problems[:MOST_NAMED]:
        typer.echo(f"{what}: {problem}", err=True)
    if len(problems) > MOST_NAMED:
        typer.echo(f"… and {len(problems) - MOST_NAMED} more {what}", err=True)


def paced(progress: Any, source: Path, ledger: Any = None) -> Any:
    """A callback that knows how many there are (one a line), and says rate, cost and time left."""
    total, begun = 0, time.monotonic()
    if source.suffix == ".jsonl":
        with source.open("rb") as file:
            total = sum(1 for _ in file)

    def show(done: int, _: int, words: str) -> None:
        rate = done / max(time.monotonic() - begun, 1e-3)
        cost = f", cost {ledger.spent:.2f}" if ledger is not None and ledger.prices.known else ""
        left = f", {max(total - done, 0) / max(rate, 1e-3):.0f} s left" if total else ""
        progress(done, total, f"{words}, {rate:.0f}/s{cost}{left}")

    return show


def _stderr() -> Any:
    from rich.console import Console

    return Console(stderr=True)
