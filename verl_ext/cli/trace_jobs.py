"""``videoseg data export`` and ``view`` from their options to their last line."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from rollout.errors import DataError, RecipeError
from verl_ext.run.progress import Callback, progress_bar

if TYPE_CHECKING:
    from rich.console import Console

    from data_construction.traces import Sources
    from data_construction.vlm import Ledger
    from eval.traces import Entry

MOST_NAMED = 10
VERIFIED = "verified.jsonl"
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
    side: int | None
    unverified: bool


def run_export(r: ExportRequest) -> bool:
    """True if every verified trace was written. Raises DataError."""
    from data_construction.export import export
    from data_construction.traces import count_items
    from data_construction.traces.shown import ImageSizes

    source = verified_file(r.source, r.unverified)
    if not r.roots:
        raise DataError("the frames' folder is needed: add --root PATH")
    with progress_bar(_stderr()) as bar:
        report = export(
            source, r.out, _sources(r), r.to, r.name, r.images, ImageSizes(factor=r.factor, side=r.side),
            Pace(bar, count_items(source)),
        )  # fmt: skip
    typer.echo(f"{report.written} traces of {source}: " + ", ".join(str(file) for file in report.files))
    for note in report.notes:
        typer.echo(note)
    if report.rejected:
        typer.echo(f"{report.rejected} that are not verified were left out")
    _name(report.set_aside, "could not be exported")
    if report.torn:
        typer.echo(f"not read: {report.torn}", err=True)
    return not (report.set_aside or report.torn)


def verified_file(source: Path, unverified: bool) -> Path:
    """What ``verify`` let pass: ``verified.jsonl``, given or in the folder or in its ``verified``.

    Raises DataError for any other file of traces, unless it is asked for as it is.
    """
    from data_construction.traces import trace_files

    for found in (source, source / VERIFIED, source / "verified" / VERIFIED):
        if found.name == VERIFIED and found.is_file():
            return found
    found = trace_files(source)
    if not unverified:
        raise DataError(
            f"{found}: its traces are not verified; run `videoseg data verify {found} {found.parent / 'verified'}` and "
            "export that, or add --unverified"
        )
    return found


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
    side: int | None


def run_view(r: ViewRequest) -> bool:
    """True if every trace of the page has its pictures and every line could be read. Raises DataError, RecipeError."""
    from eval.traces import write_gallery

    if r.verdict not in VERDICTS:
        raise RecipeError(f"--verdict {r.verdict}: expected one of {', '.join(VERDICTS[1:])}")

    def wanted(entry: Entry) -> bool:
        return r.verdict in ("", entry.verdict) and r.kind in ("", entry.trace.kind)

    with progress_bar(_stderr(), pace=True) as progress:
        report = write_gallery(
            r.traces, r.out, _sources(r), r.limit, r.seed, wanted, f"Traces of {r.traces}", progress, r.side
        )
    _name(report.problems, "could not be drawn or read")
    typer.echo(f"{report.path}: {report.shown} of {report.total} traces")
    return not report.problems


def _sources(r: ExportRequest | ViewRequest) -> Sources:
    from data_construction.traces import Sources

    return Sources.parse(r.roots, r.dataset, r.split)


def _name(problems: Sequence[str], what: str) -> None:
    for problem in problems[:MOST_NAMED]:
        typer.echo(f"{what}: {problem}", err=True)
    if len(problems) > MOST_NAMED:
        typer.echo(f"… and {len(problems) - MOST_NAMED} more {what}", err=True)


class Pace:
    """A progress callback that adds rate, cost and time left. Its first call says how many were there before: the rate
    is of this run alone. ``known`` is the total for callers that do not know it.
    """

    def __init__(self, bar: Callback, known: int = 0, ledger: Ledger | None = None) -> None:
        self.bar, self.known, self.ledger = bar, known, ledger
        self._begun = time.monotonic()
        self._before: int | None = None

    def __call__(self, done: int, total: int, words: str) -> None:
        total = total or self.known
        if self._before is None:
            self._before = done
        rate = (done - self._before) / max(time.monotonic() - self._begun, 1e-3)
        said = [words, f"{rate:.0f}/s" if rate >= 10 else f"{rate:.1f}/s"]
        if self.ledger is not None and self.ledger.prices.known:
            said.append(f"cost {self.ledger.spent:.2f}")
        if rate and total:
            said.append(f"{max(total - done, 0) / rate:.0f} s left")
        self.bar(done, total, ", ".join(said))


def _stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True)
