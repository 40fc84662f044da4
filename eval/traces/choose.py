"""Which traces a page shows, out of however many: a fair draw in bounded memory."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_construction.traces import BadLine, Trace, read_items, trace_files

VERIFIED, REJECTED, UNCHECKED = "verified", "rejected", "unchecked"
FILES = ("verified.jsonl", "rejected.jsonl")


@dataclass(frozen=True)
class Entry:
    """A trace with its verdict."""

    place: int
    """In the order of the files."""
    trace: Trace
    verdict: str
    check: str = ""
    reasons: tuple[str, ...] = ()


@dataclass
class Choice:
    """What is shown, and counts of all there is."""

    entries: list[Entry] = field(default_factory=list)
    verdicts: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)
    bad_lines: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.verdicts.total()


def trace_sources(path: Path) -> list[Path]:
    """The files of a ``verify`` folder, or the one trace file that ``path`` is or holds. Raises DataError."""
    found = [path / name for name in FILES if (path / name).is_file()]
    return found or [trace_files(path)]


def choose(
    paths: Sequence[Path], limit: int, seed: int = 0, wanted: Callable[[Entry], bool] = lambda _: True
) -> Choice:
    """At most ``limit`` of the traces that are ``wanted``: every verdict, check and kind gives in turn.

    Of each such group a reservoir of ``limit`` is kept while reading; then the groups give one trace each in turn until
    the page is full. The same files, limit and seed give the same page. Raises DataError for a wrong file.
    """
    choice, rng = Choice(), np.random.default_rng(seed)
    groups: dict[tuple[str, str, str], list[Entry]] = {}
    seen: Counter[tuple[str, str, str]] = Counter()
    for entry in read_entries(paths, choice.bad_lines):
        if not wanted(entry):
            continue
        choice.verdicts[entry.verdict] += 1
        choice.kinds[entry.trace.kind] += 1
        choice.checks[entry.check] += bool(entry.check)
        key = (entry.verdict, entry.check, entry.trace.kind)
        kept = groups.setdefault(key, [])
        seen[key] += 1
        if len(kept) < limit:
            kept.append(entry)
        elif (at := int(rng.integers(seen[key]))) < limit:
            kept[at] = entry
    for key in sorted(groups):
        groups[key] = [groups[key][i] for i in rng.permutation(len(groups[key]))]
    rounds = max(map(len, groups.values()), default=0)
    in_turn = [groups[key][n] for n in range(rounds) for key in sorted(groups) if n < len(groups[key])]
    choice.entries = sorted(in_turn[:limit], key=lambda entry: entry.place)
    choice.checks = +choice.checks
    return choice


def read_entries(paths: Sequence[Path], bad_lines: list[str]) -> Iterator[Entry]:
    """All traces in the order of the files; what is wrong with the other lines is added to ``bad_lines``."""
    place = 0
    for path in paths:
        for item in read_items(path):
            place += 1
            if isinstance(item, BadLine):
                bad_lines.append(_reason(item))
            else:
                yield _entry(place, item, path)


def _entry(place: int, trace: Trace, path: Path) -> Entry:
    status = trace.raw.get("status", "ok")
    if status == "ok":
        return Entry(place, trace, VERIFIED if path.name == FILES[0] else UNCHECKED)
    failures = trace.raw.get("failures") or [
        {"check": trace.raw.get("check", status), "reason": trace.raw.get("reason")}
    ]
    reasons = tuple(f"{f.get('check')}: {f.get('reason')}" for f in failures)
    return Entry(place, trace, REJECTED, str(trace.raw.get("check") or status), reasons)


def _reason(bad: BadLine) -> str:
    """What is wrong with the line; of one that ``verify`` could not read, what it said then."""
    try:
        return str(json.loads(bad.text)["reason"])
    except (ValueError, KeyError, TypeError):
        return bad.what
