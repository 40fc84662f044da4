"""Where a sample goes: the data set's own annotation layout, or ids as JSON lines."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_construction.readers import Dataset
from data_construction.readers.files import read_json
from data_construction.sample.population import Item
from data_construction.traces.jsonl import dump_line
from rollout.errors import DataError


def select_path(dataset: Dataset) -> Path:
    """``meta_expressions_train_select.json`` beside ``meta_expressions_train_.json``."""
    if dataset.files.annotations is None:
        raise DataError(f"data set {dataset.name} has no annotation file; write ids with --ids instead")
    path = dataset.root / dataset.files.annotations
    return path.with_name(f"{path.stem.removesuffix('_')}_select{path.suffix}")


def write_annotations(dataset: Dataset, items: Sequence[Item], path: Path, overwrite: bool = False) -> Path:
    """The data set's annotation file with the drawn expressions only, ids unchanged; returns its stanza's path.

    The stanza ``<path stem>.yaml`` beside it lets every command open the sample: its one split is the sample's
    ``<split>_select``. Both are written whole or not at all. Raises DataError for a layout other than
    ``meta_expressions``, and for a file that holds another sample.
    """
    if dataset.files.annotation_format != "meta_expressions" or dataset.files.annotations is None:
        what = f"annotation format {dataset.files.annotation_format!r} cannot be written"
        raise DataError(f"data set {dataset.name}: {what}; write ids with --ids instead")
    raw = read_json(dataset.root / dataset.files.annotations)
    keys, wanted = dataset.files.keys, _by_clip(items)
    videos = {}
    for name, video in raw[keys.videos].items():
        if str(name) in wanted:
            kept = _kept(video[keys.expressions], wanted[str(name)], keys.id)
            videos[name] = {**video, keys.expressions: kept}
    text = json.dumps({**raw, keys.videos: videos}, ensure_ascii=False, separators=(",", ":"))
    _write(path, text.encode(), overwrite)
    stanza = path.with_suffix(".yaml")
    _write(stanza, _stanza(dataset, path).encode(), overwrite)
    return stanza


def write_ids(dataset: Dataset, strata: Sequence[str], items: Sequence[Item], path: Path, overwrite: bool) -> None:
    """One line an expression: id, data set, split, clip, expression_id and its strata. ``cot`` takes it by --only."""
    lines = []
    for item in items:
        where = {"dataset": dataset.name, "split": dataset.split, "clip": item.clip}
        line: dict[str, Any] = {"id": f"{dataset.name}/{dataset.split}/{item.id}", **where}
        line |= {"expression_id": item.expression_id, "strata": dict(zip(strata, item.key, strict=True))}
        lines.append(dump_line(line))
    _write(path, b"".join(lines), overwrite)


def _by_clip(items: Sequence[Item]) -> dict[str, set[str]]:
    wanted: dict[str, set[str]] = {}
    for item in items:
        wanted.setdefault(item.clip, set()).add(item.expression_id)
    return wanted


def _kept(given: Any, wanted: set[str], id_key: str) -> Any:
    """The wanted expressions. A list numbers its expressions by place: as a mapping they keep their numbers."""
    if isinstance(given, list) and id_key:
        return [body for body in given if str(body[id_key]) in wanted]
    named = given.items() if isinstance(given, dict) else enumerate(given)
    return {str(i): body for i, body in named if str(i) in wanted}


def _stanza(dataset: Dataset, annotations: Path) -> str:
    """A stanza with one split: the sample's, all else as in the split that it was drawn from."""
    from omegaconf import OmegaConf

    layout = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(dataset.files).items() if v is not None}
    inside = annotations.absolute().is_relative_to(dataset.root)
    layout["annotations"] = str(annotations.absolute().relative_to(dataset.root) if inside else annotations.absolute())
    raw = {
        "about": f"A sample of {dataset.name}, split {dataset.split}.",
        "splits": {f"{dataset.split}_select": layout},
    }
    return OmegaConf.to_yaml(OmegaConf.create(raw))


def _write(path: Path, content: bytes, overwrite: bool) -> None:
    """Atomic. The same content is left alone; other content only replaced on demand."""
    if path.is_file() and path.read_bytes() == content:
        return
    if path.exists() and not overwrite:
        raise DataError(f"{path}: already holds something else; add --overwrite or give another --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
