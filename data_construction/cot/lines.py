"""One line of a trace file: what every trace carries, whatever its method."""

from __future__ import annotations

from typing import Any

from data_construction.generate import Item, SetAside
from data_construction.generate.items import split_id
from data_construction.readers.dataset import Dataset
from data_construction.vlm import Usage
from rollout.types import Expression


def finished(
    dataset: Dataset, method: str, item: Item, record: dict[str, Any], usage: Usage, **extra: Any
) -> dict[str, Any]:
    """A finished trace; ``extra`` goes beside its record: ``shown`` says how large frames were, and at which rate."""
    place = _place(dataset, method, item.id, item.sample.clip.name, item.sample.expression)
    rest = {"usage": usage.to_dict(), "attempt": item.attempt, "reason": ""}
    return {**place, "status": "ok", "record": record, **extra, **rest}


def unfinished(dataset: Dataset, method: str, item: Item | SetAside, reason: str, usage: Usage) -> dict[str, Any]:
    """An item without trace, and why."""
    if isinstance(item, SetAside):
        place = _place(dataset, method, item.id, item.clip, item.expression)
    else:
        place = _place(dataset, method, item.id, item.sample.clip.name, item.sample.expression)
    status = {"status": "failed", "usage": usage.to_dict(), "attempt": split_id(item.id)[1], "reason": reason}
    return {**place, **status}


def _place(dataset: Dataset, method: str, id: str, clip: str, expression: Expression | None) -> dict[str, Any]:
    e = expression or Expression("", "")
    return {
        "id": id,
        "method": method,
        "dataset": dataset.name,
        **_stanza(dataset),
        "split": dataset.split,
        "clip": clip,
        "expression_id": e.id,
        "exp": e.text,
        "anno_id": [int(a) if a.isdigit() else a for a in e.anno_ids],
        "type_id": e.type_id,
        "kind": e.kind,
    }


def _stanza(dataset: Dataset) -> dict[str, str]:
    """Where the stanza of a data set lies that is not shipped (a sample's): under its root, else anywhere."""
    file = dataset.stanza.file
    if file is None:
        return {}
    return {"stanza": str(file.relative_to(dataset.root) if file.is_relative_to(dataset.root) else file)}
