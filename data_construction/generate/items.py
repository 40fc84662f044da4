"""What a job works on: the expressions of a split, streamed in the annotation file's order."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_construction.generate.journal import read_lines
from data_construction.problems import BadDataError, Problem
from data_construction.readers.dataset import Dataset
from rollout.errors import DataError
from rollout.types import Expression, Sample

RETRY = "retry.jsonl"
_ATTEMPT = re.compile(r"(.*)#([0-9]+)", re.DOTALL)


@dataclass(frozen=True)
class Again:
    """Traces to make once more: base id -> (attempt to make, why the one before was rejected)."""

    wanted: Mapping[str, tuple[int, str]]

    @staticmethod
    def of_folder(folder: Path, attempts: int, dataset: Dataset) -> Again:
        """What ``verify`` found wanting in ``folder`` (its ``retry.jsonl``) and was tried less than ``attempts`` times.

        Traces of other data sets are passed over. Raises DataError if there is no such list, if all of it is about
        others, and where it names what ``dataset`` does not hold.
        """
        path = folder / RETRY
        if not path.is_file():
            raise DataError(f"{path}: no such file; give the folder of a `videoseg data verify` that came to its end")
        wanted: dict[str, tuple[int, str]] = {}
        known, ours, foreign = set(Source(dataset).ids()), (dataset.name, dataset.split), ""
        for number, (_, line) in enumerate(read_lines(path), start=1):
            base, made = split_id(str(line["id"]))
            if base in known:
                wanted[base] = (made + 1, str(line.get("reason", "")))
                continue
            what = f"{path}, line {number}: {base!r} is no expression of {ours[0]}, split {ours[1]}, at {dataset.root}"
            foreign = foreign or f"{what}; give the data set and split that the traces were made from"
            if (line.get("dataset"), line.get("split")) == ours:
                raise DataError(foreign)
        if foreign and not wanted:
            raise DataError(foreign)
        return Again({base: v for base, v in wanted.items() if v[0] <= attempts})


@dataclass(frozen=True)
class Item:
    """One trace to make."""

    id: str
    sample: Sample
    attempt: int = 1
    rejected: str = ""
    """Why the attempt before was rejected."""


@dataclass(frozen=True)
class SetAside:
    """An item that cannot be worked on. ``code`` is a short stable word for counting."""

    id: str
    clip: str
    expression: Expression | None
    code: str
    reason: str

    @staticmethod
    def because(error: DataError, id: str, clip: str, expression: Expression | None) -> SetAside:
        code = error.problem.code if isinstance(error, BadDataError) else "bad_data"
        return SetAside(id, clip, expression, code, str(error))


@dataclass(frozen=True)
class Unreadable:
    """An expression of which the annotation file holds no more than that it is one."""

    id: str
    problem: Problem


def split_id(id: str) -> tuple[str, int]:
    """An item's id and the attempt: ``revos/train/clip/3#2`` is ``revos/train/clip/3`` made for the second time."""
    found = _ATTEMPT.fullmatch(id)
    return (id, 1) if found is None else (found[1], int(found[2]))


def base_id(id: str) -> str:
    return split_id(id)[0]


def item_id(dataset: Dataset, clip: str, expression: Expression | None) -> str:
    """``<dataset>/<split>/<clip>/<expression id>``. A name that itself ends like an attempt gets its mark written out:
    attempts are told apart by it.
    """
    base = f"{dataset.name}/{dataset.split}/{clip}" + ("" if expression is None else f"/{expression.id}")
    found = _ATTEMPT.fullmatch(base)
    return base if found is None else f"{found[1]}%23{found[2]}"


def digest(id: str) -> int:
    """64 bits of an id, to remember many of them in little memory."""
    return int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8).digest(), "big")


@dataclass
class Source:
    """Some of a split's expressions."""

    dataset: Dataset
    wanted: Callable[[Expression], bool] = lambda _: True
    per_clip: int | None = None
    """At most so many expressions a clip, drawn by ``seed``."""
    seed: int = 0
    limit: int | None = None
    """Only the first so many items."""
    select: frozenset[tuple[str, str]] | None = None
    """(clip, expression id) to keep; None: all."""
    again: Again | None = None

    def ids(self) -> Iterator[str]:
        """Of all expressions of the split, in order, whatever is selected; of a clip, unreadable ones come last."""
        for clip in self.dataset.clips():
            expressions, lost = self.dataset.expressions(clip), self.dataset.index[clip].lost
            yield from (self._id(clip, e) for e in expressions)
            yield from (self._id(clip, Expression(eid, "")) for eid in lost)
            if not expressions and not lost:
                yield self._id(clip, None)

    def keys(self) -> Iterator[tuple[str, Expression | Unreadable | None]]:
        """What will be worked on: clip and expression, or what is there instead, or a clip without any."""
        left = self.limit
        for clip in self.dataset.clips():
            for expression in self._chosen(clip):
                if left is not None and left <= 0:
                    return
                left = None if left is None else left - 1
                yield clip, expression

    def __len__(self) -> int:
        return sum(1 for _ in self.keys())

    def items(self, done: Callable[[str], bool]) -> Iterator[Item | SetAside | None]:
        """One a key; None where ``done`` says so of the id. Masks are read here, frames are not."""
        for clip, expression in self.keys():
            if isinstance(expression, Unreadable):
                id = self._id(clip, Expression(expression.id, ""))
                yield SetAside.because(expression.problem.error(), id, clip, Expression(expression.id, ""))
                continue
            base = self._id(clip, expression)
            attempt, rejected = self.again.wanted[base] if self.again else (1, "")
            id = base if attempt == 1 else f"{base}#{attempt}"
            if done(id):
                yield None
                continue
            try:
                _check_text(self.dataset.root, clip, "" if expression is None else expression.text)
                if expression is None:
                    if (silent := self.dataset.index[clip].silent) is not None:
                        raise silent.error()
                    self.dataset.clip(clip)
                    raise DataError(f"{self.dataset.root}: clip {clip} has no expressions; remove the clip")
                yield Item(id, self.dataset.get(clip, expression.id), attempt, rejected)
            except DataError as e:
                yield SetAside.because(e, id, clip, expression)

    def _chosen(self, clip: str) -> Sequence[Expression | Unreadable | None]:
        """Expressions as asked for, and all that nothing is known of but that they cannot be read."""
        lost = [Unreadable(eid, problem) for eid, problem in self.dataset.index[clip].lost.items()]
        lost = [u for u in lost if self.again is None and (self.select is None or (clip, u.id) in self.select)]
        return [*self._usable(clip, bool(lost)), *lost]

    def _usable(self, clip: str, some_lost: bool) -> Sequence[Expression | None]:
        found = self.dataset.expressions(clip)
        if not found and some_lost:
            return []
        if not found:
            return [None] if self.select is None and self.again is None else []
        kept = [e for e in found if self.select is None or (clip, e.id) in self.select]
        if self.again is not None:
            return [e for e in kept if self._id(clip, e) in self.again.wanted]
        usable = [e for e in kept if self.wanted(e)]
        if self.per_clip is None or len(usable) <= self.per_clip:
            return usable
        drawn = np.random.default_rng([self.seed, zlib.crc32(clip.encode())]).permutation(len(usable))
        return [usable[i] for i in sorted(drawn[: self.per_clip])]

    def _id(self, clip: str, expression: Expression | None) -> str:
        return item_id(self.dataset, clip, expression)


def _check_text(root: Path, clip: str, text: str) -> None:
    """No request and no file can hold half of a surrogate pair, which JSON may spell out."""
    try:
        f"{clip}{text}".encode()
    except UnicodeEncodeError as e:
        what = f"{root}: clip {clip!r}: its name or the expression {text!r} holds half of a surrogate pair"
        raise DataError(f"{what}; mend the annotation file") from e
