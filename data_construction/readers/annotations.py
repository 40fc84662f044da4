"""Annotation formats: from a split's files to an index of clips and expressions.

A new format is a file in ``readers/formats`` with a function under ``@annotation_format``; stanzas name it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_construction.problems import Problem, problem_of
from data_construction.readers.stanza import SplitFiles, Stanza
from rollout.errors import DataError
from rollout.plugins import import_files_of
from rollout.types import Expression

KEPT_ENTRIES = 8
NOTHING_ASKED = "no_expressions"
"""The problem of a clip without expressions. It is worth a look, and no more than no samples."""
Dialogue = tuple[tuple[str, str], ...]
"""(from, value) pairs, from being system, human or gpt."""


@dataclass(frozen=True)
class ClipEntry:
    """One clip of the index. ``height`` and ``width`` are None where the annotation file does not say."""

    name: str
    frames: tuple[str, ...]
    """Names as the masks know them, or the frame's index in its video."""
    expressions: dict[str, Expression]
    height: int | None = None
    width: int | None = None
    problems: tuple[Problem, ...] = ()
    """What the annotation file says wrongly about this clip."""
    source: str = ""
    """Where the data set took the clip from."""
    video: str = ""
    """The video's file name, where the annotation file gives it."""
    masks: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """By annotation id, where the annotation file holds them: RLE, polygons or None, one a frame."""
    existence: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """By expression id, where the file says it: 0 or 1 a frame."""
    dialogues: Mapping[str, Dialogue] = field(default_factory=dict)
    """By expression id, where the file has a conversation."""
    records: Mapping[str, Any] = field(default_factory=dict)
    """By expression id: the item of a training file as it was read (VTS-CoT)."""
    odd: Mapping[str, Problem] = field(default_factory=dict)
    """By expression id: what is odd about it although the data set's own tool takes it; scored, never trained on."""
    annotated: tuple[int, ...] | None = None
    """Frames whose masks people drew, where the file tells them from others (ViCaS); None: all."""

    @property
    def silent(self) -> Problem | None:
        """Of a clip that nothing is asked about, the problem that says so: there is nothing to count."""
        asked = self.expressions or self.lost
        return None if asked else next((p for p in self.problems if p.code == NOTHING_ASKED), None)

    @property
    def faults(self) -> tuple[Problem, ...]:
        """Problems by which something cannot be used: not that there is nothing to ask about the clip."""
        return tuple(p for p in self.problems if p.code != NOTHING_ASKED)

    @property
    def refused(self) -> Problem | None:
        """Why nothing of the clip can be used; what is wrong with one expression leaves it out and keeps the others."""
        whole = [p for p in self.faults if not p.item or not self.frames]
        return whole[0] if whole else None

    @property
    def lost(self) -> dict[str, Problem]:
        """Expressions that the file has and ``expressions`` has not, as they cannot be read: id (as far as it is
        known) -> why."""
        out: dict[str, Problem] = {}
        for problem in self.problems:
            if problem.item:
                eid = problem.item.removeprefix("expression ").removeprefix("record ")
                taken = eid in out or eid in self.expressions
                out[f"{problem.item} ({len(out)})" if taken else eid] = problem
        return out


Index = Mapping[str, ClipEntry]
Parser = Callable[[Path, Stanza, SplitFiles], Index]
FORMATS: dict[str, Parser] = {}


def annotation_format(name: str) -> Callable[[Parser], Parser]:
    """Register a parser under the name that stanzas use."""

    def register(parser: Parser) -> Parser:
        FORMATS[name] = parser
        return parser

    return register


def read_index(root: Path, stanza: Stanza, files: SplitFiles) -> Index:
    """Clips by name, in the file's order. Raises DataError if the file as a whole is unusable."""
    load_formats()
    if files.annotation_format not in FORMATS:
        raise DataError(f"data set {stanza.name}: no annotation format {files.annotation_format!r}; {sorted(FORMATS)}")
    return FORMATS[files.annotation_format](root, stanza, files)


def load_formats() -> None:
    """Import every file of ``readers/formats``, so that its formats are registered."""
    import_files_of("data_construction.readers.formats")


def annotation_path(root: Path, stanza: Stanza, files: SplitFiles) -> Path:
    """The annotation file (or folder). Raises DataError if the stanza names none."""
    if files.annotations is None:
        raise DataError(f"data set {stanza.name}: its stanza names no annotation file for this split")
    return root / files.annotations


def annotation_ids(value: Any) -> tuple[str, ...]:
    """Ids as annotation files write them: a list, one alone, or null for none. Raises TypeError for anything else."""
    ids = list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]
    wrong = [i for i in ids if not isinstance(i, (int, str)) or isinstance(i, bool)]
    if wrong:
        raise TypeError(f"annotation id {wrong[0]!r} is no number or text")
    return tuple(str(i) for i in ids)


class LazyIndex(Mapping[str, ClipEntry]):
    """Clips whose entries are made when asked for; only the latest few are kept.

    For data sets with a file (or a folder of frames) a clip, of which reading all at once would take long or not fit.
    ``make`` may raise DataError: the entry then holds that problem.
    """

    def __init__(self, names: Iterable[str], make: Callable[[str], ClipEntry], file: Path) -> None:
        self._names = dict.fromkeys(names)
        self._make, self._file = make, file
        self._kept: OrderedDict[str, ClipEntry] = OrderedDict()

    def __getitem__(self, name: str) -> ClipEntry:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._kept:
            try:
                self._kept[name] = self._make(name)
            except DataError as e:
                problem = problem_of(e, str(self._file), "malformed_clip", name)
                self._kept[name] = ClipEntry(name, (), {}, problems=(problem,))
            if len(self._kept) > KEPT_ENTRIES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(name)
        return self._kept[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
