"""Export formats by name. A new one is a file in this folder with a class under ``@export_format``."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from data_construction.export.images import ImageStore, Mode
from data_construction.partials import partial_of, remove_abandoned
from data_construction.problems import Progress
from data_construction.traces import BadLine, Sources, Trace, read_items, trace_files
from data_construction.traces.jsonl import dump_line
from data_construction.traces.shown import ImageSizes
from rollout.control_text import control_fault
from rollout.errors import DataError
from rollout.plugins import import_files_of
from rollout.types import Sample


class Writer(Protocol):
    """Takes traces one by one; nothing is visible under the final name before ``finish``. May have ``notes()``:
    sentences for whoever trains on the files."""

    def add(self, trace: Trace, sample: Sample) -> None:
        """Raises DataError for a trace that cannot be written; it is then left out."""
        ...

    def finish(self) -> list[Path]:
        """The files, whole."""
        ...

    def abort(self) -> None:
        """Take away what is not whole."""
        ...


class Format(Protocol):
    """``default_images`` is how pictures are given unless the user says otherwise."""

    default_images: Mode

    def writer(self, out: Path, name: str, images: ImageStore) -> Writer: ...

    def read(self, path: Path) -> Iterator[dict[str, Any]]:
        """The traces' lines again. Raises DataError (file and row) for a file that was not written by ``writer``."""
        ...

    def reads(self, path: Path) -> bool: ...


IMAGES = "images"
FORMATS: dict[str, Format] = {}


def export_format(name: str) -> Callable[[type], type]:
    """Register a format under the name that ``--to`` takes."""

    def register(cls: type) -> type:
        FORMATS[name] = cls()
        return cls

    return register


def format_names() -> list[str]:
    _load()
    return sorted(FORMATS)


@dataclass
class ExportReport:
    """What was written and what could not be."""

    files: list[Path] = field(default_factory=list)
    written: int = 0
    rejected: int = 0
    """Traces whose status is not ok."""
    set_aside: list[str] = field(default_factory=list)
    """Why, one line a trace."""
    torn: str = ""
    notes: list[str] = field(default_factory=list)
    """What whoever trains on the files must know, as far as the format says so."""


def export(
    source: Path,
    out: Path,
    sources: Sources,
    to: str,
    name: str = "train",
    images: Mode | None = None,
    sizes: ImageSizes | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Write the traces of ``source`` into folder ``out`` in format ``to``, whole or not at all.

    Rejected and failed traces are left out and counted, those whose clip or frames are missing set aside by name.
    Raises DataError for an unknown format, and where no trace could be written.
    """
    source, chosen, report = trace_files(source), get_format(to), ExportReport()
    out.mkdir(parents=True, exist_ok=True)
    for folder, pattern in ((out, ".*.partial"), (out / IMAGES, "**/.*.partial")):
        remove_abandoned(folder, pattern)
    store = ImageStore(out / IMAGES, images or chosen.default_images, sizes or ImageSizes())
    writer = chosen.writer(out, name, store)
    try:
        for n, item in enumerate(read_items(source), start=1):
            if isinstance(item, BadLine):
                report.torn = item.what if item.torn else report.torn
                report.set_aside += [] if item.torn else [item.what]
            elif item.raw.get("status", "ok") != "ok":
                report.rejected += 1
            else:
                try:
                    fault = control_fault(item.text, item.replies)
                    if fault is not None:
                        raise DataError(f"trace {item.id}: {fault}; trainers would read more than words in it")
                    writer.add(item, sources.sample(item))
                    report.written += 1
                except DataError as e:
                    report.set_aside.append(str(e))
            if progress is not None:
                progress(n, 0, f"{report.written} written")
        if not report.written:
            first = report.set_aside[0] if report.set_aside else f"{report.rejected} are not verified"
            raise DataError(f"{source}: no trace could be exported: {first}")
        report.files = writer.finish()
        report.notes = getattr(writer, "notes", list)()
    except BaseException:
        writer.abort()
        raise
    return report


def import_traces(path: Path, out: Path) -> int:
    """From an exported file back to a trace file, line for line what was exported; returns how many traces."""
    _load()
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    fitting = [chosen for chosen in FORMATS.values() if chosen.reads(path)]
    if not fitting:
        raise DataError(f"{path}: not a file that can be turned back into traces (.parquet, or ShareGPT .json)")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial, count = partial_of(out), 0
    remove_abandoned(out.parent, f".{glob.escape(out.name)}.*.partial")
    try:
        with partial.open("wb") as file:
            for line in fitting[0].read(path):
                file.write(dump_line(line))
                count += 1
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return count


def get_format(name: str) -> Format:
    """Raises DataError for an unknown one, naming those there are."""
    _load()
    if name not in FORMATS:
        raise DataError(f"no export format {name!r}; there are {', '.join(sorted(FORMATS))}")
    return FORMATS[name]


def _load() -> None:
    import_files_of("data_construction.export")
