"""One line of a trace file: what every trace carries, whatever its method."""

from __future__ import annotations

from typing import Any

from data_construction.generate import Item, SetAside
from data_construction.readers.dataset import Dataset
from data_construction.vlm import Usage
from rollout.types import Expression


def finished(
    dataset: Dataset, method: str, item: Item, record: dict[str, Any], usage: Usage, **extra: Any
) -> dict[str, Any]:
    """A finished trace; ``extra`` goes beside its record."""
    place = _place(dataset, method, item.id, item.sample.clip.name, item.sample.expression)
    rest = {"usage": usage.to_dict(), "attempt": item.attempt, "reason": ""}
    return {**place, "status": "ok", "record": record, **extra, **rest}


def unfinished(dataset: Dataset, method: str, item: Item | SetAside, reason: str, usage: Usage) -> dict[str, Any]:
    """An item without trace, and why."""
    if isinstance(item, SetAside):
        place = _place(dataset, method, item.id, item.clip, item.expression)
    else:
        place = _place(dataset, method, item.id, item.sample.clip.name, item.sample.expression)
    attempt = int(item.id.partition("#")[2] or 1)
    return {**place, "status": "failed", "usage": usage.to_dict(), "attempt": attempt, "reason": reason}


def _place(dataset: Dataset, method: str, id: str, clip: str, expression: Expression | None) -> dict[str, Any]:
    e = expression or Expression("", "")
    return {
        "id": id,
        "method": method,
        "dataset": dataset.name,
        "split": dataset.split,
        "clip": clip,
        "expression_id": e.id,
        "exp": e.text,
        "anno_id": [int(a) if a.isdigit() else a for a in e.anno_ids],
        "type_id": e.type_id,
        "kind": e.kind,
    }
