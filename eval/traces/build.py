"""Put the page together."""

from __future__ import annotations

import base64
import glob
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from data_construction.partials import partial_of, remove_abandoned
from data_construction.problems import Progress
from data_construction.traces import Sources
from eval.traces.choose import REJECTED, UNCHECKED, VERIFIED, Entry, choose, trace_sources
from eval.traces.clips import TraceView, bare_view, trace_view
from rollout.errors import DataError

LIMIT = 60


@dataclass(frozen=True)
class GalleryReport:
    """What the page shows, and what it could not."""

    path: Path
    shown: int
    total: int
    problems: list[str]
    """Traces whose pictures are missing, and lines that are no traces."""


def write_gallery(
    source: Path,
    out: Path,
    sources: Sources,
    limit: int = LIMIT,
    seed: int = 0,
    wanted: Callable[[Entry], bool] = lambda _: True,
    title: str = "",
    progress: Progress | None = None,
    side: int | None = None,
) -> GalleryReport:
    """Write the page to ``out``, whole or not at all.

    It holds all it shows and runs no script but its own (a content policy says so by hash). Model text is escaped by
    the template engine. A trace whose clip or frames are missing is shown without pictures and named in ``problems``.
    ``side``: of the square that Veason-R1's boxes are in, for traces that do not say. Raises DataError for a wrong
    file, and where there is no trace to show.
    """
    choice = choose(trace_sources(source), limit, seed, wanted)
    if not choice.entries:
        raise DataError(f"{source}: no trace to show" + (f": {choice.bad_lines[0]}" if choice.bad_lines else ""))
    views: list[TraceView] = []
    problems = list(choice.bad_lines)
    for done, entry in enumerate(choice.entries):
        if progress is not None:
            progress(done, len(choice.entries), "drawing")
        try:
            views.append(trace_view(entry, sources.sample(entry.trace), side))
        except DataError as e:
            problems.append(str(e))
            views.append(bare_view(entry, str(e)))
    environment = _environment()
    script = environment.get_template("gallery.js").render()
    page = environment.get_template("gallery.html").render(
        title=title or f"Traces of {source}",
        views=views,
        choice=choice,
        verdicts=[(v, choice.verdicts[v]) for v in (VERIFIED, REJECTED, UNCHECKED) if choice.verdicts[v]],
        kinds=sorted(choice.kinds.items()),
        checks=choice.checks.most_common(),
        problems=problems,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(out.parent, f".{glob.escape(out.name)}.*.partial")
    partial = partial_of(out)
    try:
        partial.write_text(page, encoding="utf-8")
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)
    return GalleryReport(out, len(views), choice.total, problems)


def _environment() -> Environment:
    """Our templates, and the report's look."""
    return Environment(
        loader=ChoiceLoader([PackageLoader("eval.traces"), PackageLoader("eval.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )
