"""The site as files that open from disk, without a server."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from data_construction.atomic import new_folder
from verl_ext.viewer.model import Entry, Source
from verl_ext.viewer.site import Site

LIMIT = 50
"""Groups, unless the user says otherwise: about half a megabyte each."""
_PICTURE = re.compile(r'src="([fmtx]-[\w-]+\.(?:jpg|png))"')
Progress = Callable[[int, int, str], None]


def write_static(
    sources: Sequence[Source],
    folder: Path,
    limit: int = LIMIT,
    moved: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> int:
    """Write pages and their pictures to a new ``folder``, whole or not at all; returns how many groups it holds.

    With more groups than ``limit``, those of evenly spaced steps. Raises DataError if the folder is not empty.
    """
    kept = [_Some(source, limit) for source in sources]
    site = Site(kept, live=False, moved=moved)
    with new_folder(folder) as out:
        names = ["index.html", *_pages(kept)]
        for done, name in enumerate(names):
            if progress is not None:
                progress(done, len(names), "writing pages")
            page = site.respond(name)
            (out / name).write_bytes(page.body)
            for picture in sorted(set(_PICTURE.findall(page.body.decode()))):
                if not (out / picture).exists():
                    found = site.respond(picture)
                    if found.status == 200:
                        (out / picture).write_bytes(found.body)
    return len(kept[0].entries()[0])


def _pages(kept: Sequence[_Some]) -> list[str]:
    names = [
        f"group-{side}-{e.key}.html" for side, source in zip("ab", kept, strict=False) for e in source.entries()[0]
    ]
    if len(kept) == 2:
        first, second = (source.entries()[0] for source in kept)
        for a in first:
            same = [b for b in second if b.sample == a.sample]
            if same:
                names.append(f"pair-{a.key}-and-{nearest(a, same).key}.html")
    return names


def nearest(entry: Entry, others: Sequence[Entry]) -> Entry:
    """Of the same prompt's groups in another run the one of the nearest step, the later where two are as near."""
    step = entry.step or 0
    return min(others, key=lambda e: (abs((e.step or 0) - step), -(e.step or 0)))


class _Some:
    """A source of which only some rows are shown."""

    def __init__(self, source: Source, limit: int) -> None:
        self._source = source
        entries, self._problems = source.entries()
        stride = max(1, -(-len(entries) // limit))
        self._entries = entries[::stride]
        self.title, self.score_name = source.title, source.score_name
        self.stamp, self.group, self.curves, self.facts = source.stamp, source.group, source.curves, source.facts
        self.total = len(entries)

    def entries(self) -> tuple[Sequence[Entry], Sequence[str]]:
        cut = (
            [f"{len(self._entries)} of {self.total} groups are in this folder."]
            if len(self._entries) < self.total
            else []
        )
        return self._entries, [*self._problems, *cut]

    def state(self) -> str:
        return ""
