"""Where each record of a results file lies, so that one can be read at a time: a whole benchmark's are gigabytes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from eval.results.record import ResultRecord, check_name
from rollout.errors import DataError

Key = tuple[str, str]
_DECODER = json.JSONDecoder()
_HEAD = 2048
"""Characters that surely hold the first two fields of a line."""


@dataclass(frozen=True)
class Place:
    """One line of a results file."""

    number: int
    """From 1."""
    offset: int
    length: int
    """In bytes, with the newline."""


def index_results(path: Path) -> dict[Key, Place]:
    """(clip, expression id) -> place, in file order. A torn last line, which a killed run leaves, is left out.

    Only the head of a line is parsed, as ``ResultsFile`` writes it; a line of another form is parsed whole.
    Raises DataError naming file and line: no file, a line that is no record, a name that could leave a folder, an
    expression that stands there twice.
    """
    if not path.is_file():
        raise DataError(f"{path}: no results file there")
    places: dict[Key, Place] = {}
    offset = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.endswith(b"\n"):
                break
            where = f"{path}, line {number}"
            key = _key(raw, where)
            if key in places:
                raise DataError(f"{where}: {key[0]}/{key[1]} is already on line {places[key].number}")
            check_name(key[0], f"{where}: clip", nested=True)
            check_name(key[1], f"{where}: expression id of clip {key[0]!r}", nested=False)
            places[key] = Place(number, offset, len(raw))
            offset += len(raw)
    return places


def read_record(file: BinaryIO, path: Path, key: Key, place: Place) -> ResultRecord:
    """The record of an indexed line. Raises DataError if it is none, or not the one that was indexed there."""
    where = f"{path}, line {place.number}"
    file.seek(place.offset)
    try:
        record = ResultRecord.from_dict(json.loads(file.read(place.length)), where)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{where}: {key[0]}/{key[1]} is not JSON ({error}); remove the line and run again") from error
    if record.key != key:
        raise DataError(f"{where}: holds {record.name}, expected {key[0]}/{key[1]}; did the file change meanwhile?")
    return record


def _key(raw: bytes, where: str) -> Key:
    return _key_of_head(raw) or _key_of_line(raw, where)


def _key_of_head(raw: bytes) -> Key | None:
    """The key of a line that begins with ``{"clip":...,"expression_id":...,``; None for any other line."""
    head = raw[:_HEAD].decode("utf-8", "replace")
    at, found = 0, []
    for start in ('{"clip":', ',"expression_id":'):
        if not head.startswith(start, at):
            return None
        try:
            value, at = _DECODER.raw_decode(head, at + len(start))
        except json.JSONDecodeError:
            return None
        found.append(value)
    clip, expression_id = found
    return (clip, expression_id) if isinstance(clip, str) and isinstance(expression_id, str) else None


def _key_of_line(raw: bytes, where: str) -> Key:
    try:
        record = ResultRecord.from_dict(json.loads(raw), where)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error}); remove the line and run again") from error
    return record.key
