"""How tables split expressions into rows: by type, kind, object count and clip length.

A grouping maps a score to ``(rank, label)``; rows of a table stand in the order of their ranks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable

from eval.scorers.types import TYPE_NAMES, ExpressionScore

Label = tuple[int, str]
Grouping = Callable[[ExpressionScore], Label]

TARGET = ("with a target", "no target")
OBJECTS = ("no object", "1 object", "2 objects", "3 and more")
LENGTHS = (50, 100, 200, 500)
"""Frames at which the next clip-length group begins, exclusive."""


def by_type(row: ExpressionScore) -> Label:
    """ReVOS' referring, reasoning, no target."""
    rank = 3 if row.type_id is None else row.type_id
    return rank, TYPE_NAMES.get(row.type_id, f"type {row.type_id}")


def by_kind(row: ExpressionScore) -> Label:
    """The data set's own label (long or short, static or dynamic, question type, source); else the type."""
    return 0, row.kind or TYPE_NAMES.get(row.type_id, "untyped")


def by_target(row: ExpressionScore) -> Label:
    """Whether the expression means anything in its clip (MeViS v2)."""
    rank = int(row.objects == 0)
    return rank, TARGET[rank]


def by_objects(row: ExpressionScore) -> Label:
    """How many annotated objects the expression names."""
    rank = min(row.objects, len(OBJECTS) - 1)
    return rank, OBJECTS[rank]


def by_clip_length(row: ExpressionScore) -> Label:
    """How many frames the clip has."""
    rank = bisect_left(LENGTHS, row.frames)
    if rank == len(LENGTHS):
        return rank, f"more than {LENGTHS[-1]} frames"
    return rank, f"{LENGTHS[rank - 1] + 1 if rank else 1} to {LENGTHS[rank]} frames"


GROUPINGS: dict[str, Grouping] = {
    "type": by_type,
    "kind": by_kind,
    "target": by_target,
    "objects": by_objects,
    "clip_length": by_clip_length,
}
"""What a benchmark's stanza may name under ``groups``."""
BY_TYPE = ("type", "kind")
"""Groupings whose labels keep the types apart as they are."""


LAST = 1000
"""Rank of the rows that stand apart."""


def grouped(
    rows: Iterable[ExpressionScore], grouping: str, apart: int | None = None
) -> dict[str, list[ExpressionScore]]:
    """Label -> its rows, labels by rank, then by name.

    ``apart`` is a type whose expressions have a label of their own in groupings that do not tell types apart, so that
    they do not weigh in the others' means.
    """
    found: dict[Label, list[ExpressionScore]] = {}
    for row in rows:
        stands_apart = apart is not None and row.type_id == apart and grouping not in BY_TYPE
        label = (LAST, by_type(row)[1]) if stands_apart else GROUPINGS[grouping](row)
        found.setdefault(label, []).append(row)
    return {label: found[rank, label] for rank, label in sorted(found)}
