"""Where a sample goes: the data set's own annotation layout, or ids as JSON lines."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from data_construction.readers import Dataset
from data_construction.readers.files import read_json
from data_construction.readers.formats.meta_expressions import expression_items, parse_video
from data_construction.readers.stanza import SplitFiles
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
    """Write ``annotation_files``; returns the stanza's path. Raises DataError as it and ``write_files`` do."""
    write_files(annotation_files(dataset, items, path), overwrite)
    return stanza_path(path)


def write_ids(dataset: Dataset, strata: Sequence[str], items: Sequence[Item], path: Path, overwrite: bool) -> None:
    """Write ``ids_file``. Raises DataError as ``write_files``."""
    write_files({path: ids_file(dataset, strata, items)}, overwrite)


def stanza_path(path: Path) -> Path:
    """The stanza beside a sample's annotation file."""
    return path.with_suffix(".yaml")


def check_format(dataset: Dataset) -> None:
    """Raise DataError for a layout other than ``meta_expressions``."""
    if dataset.files.annotation_format != "meta_expressions" or dataset.files.annotations is None:
        what = f"annotation format {dataset.files.annotation_format!r} cannot be written"
        raise DataError(f"data set {dataset.name}: {what}; write ids with --ids instead")


def annotation_files(dataset: Dataset, items: Sequence[Item], path: Path) -> dict[Path, bytes]:
    """The data set's annotation file with the drawn expressions only, under the reader's ids, and its stanza.

    The stanza ``<path stem>.yaml`` beside it lets every command open the sample: its one split is the sample's
    ``<split>_select``. Expressions stand in a mapping, also those that were a list: there they would count anew.
    Raises DataError as ``check_format``, and where the sample would not be read back as it was drawn.
    """
    check_format(dataset)
    source, keys = dataset.root / str(dataset.files.annotations), dataset.files.keys
    if path.suffix in (".yaml", ".yml"):
        raise DataError(f"{path}: the stanza beside the annotations would have this name; give --out a .json")
    raw, wanted = read_json(source), _by_clip(items)
    counts = {"clips": len(wanted), "expressions": sum(len(ids) for ids in wanted.values())}
    files = replace(dataset.files, numbered_masks=False, expected=counts)
    videos: dict[str, Any] = {}
    for name, video in (raw[keys.videos] if keys.videos else raw).items():
        if name in wanted:
            videos[name] = {**video, keys.expressions: _kept(dataset, name, video, wanted[name])}
            again = parse_video(path, name, videos[name], files).expressions
            known = dataset.index[name].expressions
            if again != {eid: e for eid, e in known.items() if eid in wanted[name]}:
                same = sum(known.get(eid) == e for eid, e in again.items())
                what = f"{same} of {len(wanted[name])} drawn expressions would be read back as they are"
                raise DataError(f"{source}: clip {name}: {what}; write ids with --ids instead")
    lost = sorted(wanted.keys() - videos.keys())
    if lost:
        raise DataError(f"{source}: clip {lost[0]} was drawn and is not there any more; draw again")
    content = {**raw, keys.videos: videos} if keys.videos else videos
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return {path: text.encode(), stanza_path(path): _stanza(dataset, files, path).encode()}


def ids_file(dataset: Dataset, strata: Sequence[str], items: Sequence[Item]) -> bytes:
    """One line an expression: id, data set, split, clip, expression_id and its strata. ``cot`` takes it by --only."""
    lines = []
    for item in items:
        where = {"dataset": dataset.name, "split": dataset.split, "clip": item.clip}
        line: dict[str, Any] = {"id": f"{dataset.name}/{dataset.split}/{item.id}", **where}
        line |= {"expression_id": item.expression_id, "strata": dict(zip(strata, item.key, strict=True))}
        lines.append(dump_line(line))
    return b"".join(lines)


def write_files(files: Mapping[Path, bytes], overwrite: bool) -> None:
    """All of them, each in one step, or none. The same content is left alone, other content only replaced on demand.

    Raises DataError, before anything is written, for a file that holds something else.
    """
    changed = {p: content for p, content in files.items() if not (p.is_file() and p.read_bytes() == content)}
    taken = [p for p in changed if p.exists() and not (overwrite and p.is_file())]
    if taken:
        remedy = "add --overwrite or give another file" if taken[0].is_file() else "give another file"
        raise DataError(f"{taken[0]}: already holds something else; {remedy}")
    partials = {p: p.with_name(f".{p.name}.{os.getpid()}.partial") for p in changed}
    try:
        for path, content in changed.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            partials[path].write_bytes(content)
        for path, partial in partials.items():
            os.replace(partial, path)
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)


def _by_clip(items: Sequence[Item]) -> dict[str, set[str]]:
    wanted: dict[str, set[str]] = {}
    for item in items:
        wanted.setdefault(item.clip, set()).add(item.expression_id)
    return wanted


def _kept(dataset: Dataset, clip: str, video: Any, wanted: set[str]) -> dict[str, Any]:
    """The wanted expressions by the reader's ids. Numbers of masks are those of the whole file, so they are written."""
    keys, known = dataset.files.keys, dataset.index[clip].expressions
    kept: dict[str, Any] = {}
    for eid, body in expression_items(video.get(keys.expressions), keys):
        if eid in wanted and eid in known and eid not in kept:
            kept[eid] = body
            if dataset.files.numbered_masks:
                kept[eid] = {**body, keys.anno_ids: list(known[eid].anno_ids)}
    return kept


def _stanza(dataset: Dataset, files: SplitFiles, annotations: Path) -> str:
    """A stanza with one split: the sample's, all else as in the split that it was drawn from."""
    from omegaconf import OmegaConf

    layout = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(files).items() if v is not None}
    inside = annotations.absolute().is_relative_to(dataset.root)
    layout["annotations"] = str(annotations.absolute().relative_to(dataset.root) if inside else annotations.absolute())
    raw = {
        "about": f"A sample of {dataset.name}, split {dataset.split}.",
        "splits": {f"{dataset.split}_select": layout},
    }
    return OmegaConf.to_yaml(OmegaConf.create(raw))
