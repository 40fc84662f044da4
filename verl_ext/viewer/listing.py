"""A source's rows as a page wants them, made anew only when its files change."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from threading import Lock
from typing import Any

from verl_ext.viewer.model import Entry, Source


class Listing:
    """One source's list in a site."""

    def __init__(self, side: str, source: Source) -> None:
        self.side, self.source = side, source
        self._lock = Lock()
        self._stamp = self._recent = ""
        self._looked = -1.0
        self._columns = "{}"
        self._entries: Sequence[Entry] = ()
        self._problems: Sequence[str] = ()
        self._places: dict[str, int] = {}
        self._steps: dict[str, list[int]] = {}

    @property
    def title(self) -> str:
        return self.source.title

    def stamp(self) -> str:
        """Short, and another one after every change on disk."""
        return hashlib.blake2b(self.source.stamp().encode(), digest_size=8).hexdigest()

    def recent_stamp(self) -> str:
        """The same, at most half a second old: a group's pictures ask for it by the hundred."""
        now = time.monotonic()
        if now - self._looked >= 0.5:
            self._looked, self._recent = now, self.source.stamp()
        return self._recent

    def columns(self) -> tuple[str, Sequence[str]]:
        """The rows as JSON, a column a field (half of the bytes of a row each), and what could not be read."""
        with self._lock:
            self._refresh()
            return self._columns, self._problems

    def links(self, key: str) -> dict[str, Any]:
        """Pages before and after in the list, and those of the same prompt at other steps."""
        with self._lock:
            self._refresh()
            at = self._places.get(key)
            if at is None:
                return {"previous": None, "next": None, "same": []}
            same = [self._entries[i] for i in self._steps[self._entries[at].sample]]
            steps = [(e.step, self.page(e.key), e.key == key) for e in same if e.step is not None]
            return {
                "previous": self.page(self._entries[at - 1].key) if at else None,
                "next": self.page(self._entries[at + 1].key) if at + 1 < len(self._entries) else None,
                "same": sorted(steps) if len(steps) > 1 else [],
            }

    def page(self, key: str) -> str:
        return f"group-{self.side}-{key}.html"

    def _refresh(self) -> None:
        stamp = self.source.stamp()
        if stamp == self._stamp:
            return
        entries, problems = self.source.entries()
        if entries is self._entries:  # the source waits before it reads again
            return
        self._stamp, self._entries, self._problems = stamp, entries, problems
        self._places = {e.key: i for i, e in enumerate(entries)}
        self._steps = {}
        for i, e in enumerate(entries):
            self._steps.setdefault(e.sample, []).append(i)
        self._columns = json.dumps(_columns(self.source, entries), separators=(",", ":"), ensure_ascii=False)


def _columns(source: Source, entries: Sequence[Entry]) -> dict[str, Any]:
    return {
        "title": source.title,
        "score": source.score_name,
        "key": [e.key for e in entries],
        "step": [e.step for e in entries],
        "sample": [e.sample for e in entries],
        "clip": [e.clip for e in entries],
        "text": [e.text for e in entries],
        "kind": [e.kind for e in entries],
        "stops": [list(e.stops) for e in entries],
        "turns": [list(e.turns) for e in entries],
        "scores": [[None if v is None or not math.isfinite(v) else round(v, 4) for v in e.scores] for e in entries],
    }
