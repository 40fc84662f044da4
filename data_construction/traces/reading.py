"""Trace files, read as a stream: JSON lines, or a list of VTS-CoT records as released."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_construction.traces.json_list import BrokenListError, read_json_list
from data_construction.traces.jsonl import whole_length, whole_lines
from data_construction.traces.trace import Trace
from rollout.errors import DataError

NAMES = ("traces.jsonl", "verified.jsonl")
"""What to look for in a folder, in this order."""


@dataclass(frozen=True)
class BadLine:
    """A line that is no trace."""

    number: int
    what: str
    text: str
    torn: bool = False
    """The last line, and a job that goes on would write it again."""


def trace_files(path: Path) -> Path:
    """``path``, or the trace file in that folder. Raises DataError if there is none."""
    if path.is_dir():
        found = [path / name for name in NAMES if (path / name).is_file()]
        if not found:
            raise DataError(f"{path}: no traces there; wants a file such as {NAMES[0]}, or a folder with one")
        return found[0]
    if not path.is_file():
        raise DataError(f"{path}: no such file; wants the traces.jsonl that `videoseg data cot` writes")
    if path.suffix not in (".jsonl", ".json"):
        raise DataError(
            f"{path}: traces are .jsonl (or .json with VTS-CoT records), this is {path.suffix or 'neither'}"
        )
    return path


def read_traces(path: Path) -> Iterator[Trace]:
    """Traces in file order, one in memory at a time. Raises DataError (file and line) for a line that is none."""
    for item in read_items(path):
        if isinstance(item, BadLine):
            raise DataError(item.what)
        yield item


def read_items(path: Path) -> Iterator[Trace | BadLine]:
    """As ``read_traces``, but bad lines are handed out in their place; a torn last line has ``torn`` set.

    A first line that looks like no trace raises all the same: then it is the wrong file.
    """
    if path.suffix == ".json":
        yield from _records(path)
        return
    number = 0
    for number, _, line in whole_lines(path):
        try:
            yield Trace.from_dict(_loads(line), f"{path}, line {number}")
        except (ValueError, RecursionError) as e:  # DataError and JSONDecodeError are ValueErrors
            what = str(e) if isinstance(e, DataError) else f"{path}, line {number}: not JSON ({e})"
            if number == 1 and not _has_id(line):
                raise DataError(what) from e
            yield BadLine(number, what, line.decode("utf-8", "replace").strip())
    rest = path.stat().st_size - whole_length(path)
    if rest:
        what = f"{path}, line {number + 1}: torn ({rest} bytes without a newline); run the step that writes it again"
        yield BadLine(number + 1, what, "", torn=True)


def _loads(line: bytes) -> Any:
    """The line's value. Raises ValueError for text that no file could hold: half of a surrogate pair."""
    value = json.loads(line.rstrip())
    if b"\\ud" in line.lower():
        json.dumps(value, ensure_ascii=False).encode()  # UnicodeEncodeError is a ValueError
    return value


def _has_id(line: bytes) -> bool:
    """A damaged trace rather than a line of another file."""
    return line.lstrip().startswith(b'{"id"')


def _records(path: Path) -> Iterator[Trace | BadLine]:
    """A VTS-CoT file, one record in memory at a time. Where the list itself breaks off, that is its torn end."""
    n = -1
    try:
        for n, value in enumerate(read_json_list(path)):
            try:
                yield _record(path, n, value)
            except DataError as e:
                if n == 0 and not (isinstance(value, dict) and "video_name" in value):
                    raise
                yield BadLine(n, str(e), json.dumps(value))
    except BrokenListError as e:
        if n < 0:
            raise
        yield BadLine(n + 1, str(e), "", torn=True)


def _record(path: Path, n: int, value: Any) -> Trace:
    from data_construction.readers.training_items import parse_trace

    record, where = parse_trace(path, n, value), f"{path}, record {n}"
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as e:
        raise DataError(f"{where}: holds half of a surrogate pair; mend the record") from e
    raw: dict[str, Any] = {
        "id": f"{path.stem}/{record.video_name}/{n}",
        "method": "videoseg_o3",
        "status": "ok",
        "dataset": "",
        "split": "",
        "clip": record.video_name,
        "expression_id": "",
        "exp": record.exp,
        "anno_id": list(record.anno_id),
        "type_id": None,
        "kind": record.kind,
        "record": record.to_dict(),
    }
    return Trace.from_dict(raw, where)


def count_items(path: Path) -> int:
    """How many traces a file holds, roughly and fast: lines, or records by the key that each has once."""
    total, tail, mark = 0, b"", b'"video_name"' if path.suffix == ".json" else b"\n"
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            total += (tail + chunk).count(mark)
            tail = chunk[1 - len(mark) :] if len(mark) > 1 else b""
    return total
