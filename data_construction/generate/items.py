"""What a job works on: the expressions of a split, streamed in the annotation file's order."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_construction.generate.journal import read_lines
from data_construction.problems import BadDataError
from data_construction.readers.dataset import Dataset
from rollout.errors import DataError
from rollout.types import Expression, Sample


@dataclass(frozen=True)
class Again:
    """Traces to make once more: base id -> (attempt to make, why the one before was rejected)."""

    wanted: Mapping[str, tuple[int, str]]

    @staticmethod
    def of_folder(folder: Path, attempts: int) -> Again:
        """What ``verify`` left in ``folder``: rejected, never verified, and tried less than ``attempts`` times.

        Raises DataError if it holds no ``rejected.jsonl``.
        """
        if not (folder / "rejected.jsonl").is_file():
            raise DataError(f"{folder}: no rejected.jsonl there; give the folder that `videoseg data verify` wrote")
        latest: dict[str, tuple[int, str]] = {}
        for _, line in read_lines(folder / "rejected.jsonl"):
            base, made = base_id(str(line["id"])), int(line.get("attempt", 1))
            if base not in latest or made >= latest[base][0] - 1:
                latest[base] = (made + 1, str(line.get("reason", "")))
        sound = {base_id(str(line["id"])) for _, line in read_lines(folder / "verified.jsonl")}
        return Again({b: v for b, v in latest.items() if b not in sound and v[0] <= attempts})


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


def base_id(id: str) -> str:
    """Without the attempt: ``revos/train/clip/3#2`` is ``revos/train/clip/3`` made for the second time."""
    return id.partition("#")[0]


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
    skipped: int = field(default=0, init=False)

    def ids(self) -> Iterator[str]:
        """Of all expressions of the split, in order, whatever is selected."""
        for clip in self.dataset.clips():
            expressions = self.dataset.expressions(clip)
            yield from (self._id(clip, e) for e in expressions)
            if not expressions:
                yield self._id(clip, None)

    def keys(self) -> Iterator[tuple[str, Expression | None]]:
        """What will be worked on: clip and expression, or a clip without any."""
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
            base = self._id(clip, expression)
            attempt, rejected = self.again.wanted[base] if self.again else (1, "")
            id = base if attempt == 1 else f"{base}#{attempt}"
            if done(id):
                yield None
                continue
            try:
                if expression is None:
                    self.dataset.clip(clip)
                    raise DataError(f"{self.dataset.root}: clip {clip} has no expressions; remove the clip")
                yield Item(id, self.dataset.get(clip, expression.id), attempt, rejected)
            except DataError as e:
                yield SetAside.because(e, id, clip, expression)

    def _chosen(self, clip: str) -> list[Expression] | list[None]:
        found = self.dataset.expressions(clip)
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
        base = f"{self.dataset.name}/{self.dataset.split}/{clip}"
        return base if expression is None else f"{base}/{expression.id}"
