"""A large JSON mapping read value by value: ReVOS' and MeViS' mask files are gigabytes, a clip needs a few kilobytes.

One pass finds where each value starts; nothing is parsed before it is asked for.
"""

from __future__ import annotations

import json
import mmap
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from data_construction.readers.files import read_json_shared
from rollout.errors import DataError
from rollout.text_files import encoding_of

INDEXED_FROM = 64 << 20
"""Bytes from which on a file is indexed; smaller ones are parsed whole and kept."""
KEY = rb'"((?:[^"\\]|\\.)*)"\s*:\s*'
MARK = rb"(?:\xef\xbb\xbf)?"
FIRST = re.compile(MARK + rb"\s*\{\s*" + KEY)
# RLE text holds no comma and no quote, and a search for commas passes over it quickly.
NEXT = re.compile(rb',\s*(?!"(?:size|counts)"\s*:)' + KEY)
LAST = re.compile(rb"\s*\}\s*\Z")
EMPTY = re.compile(MARK + rb"\s*\{\s*\}\s*\Z")
Span = tuple[int, int]


class IndexedJson(Mapping[str, Any]):
    """``{key: value, ...}`` on disk. A value is parsed whenever it is asked for.

    A key after a comma is one of the outermost mapping, those of an RLE left out. Where a file is laid out otherwise a
    slice does not parse, and the file is read whole after all. Raises DataError if it is no mapping or cut short.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._whole: Mapping[str, Any] | None = None
        with path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._found = self._scan()
        self._spans = dict(self._found)
        if self._found and not self._parses(self._found[-1][1]):
            self._read_whole()

    def _scan(self) -> list[tuple[str, Span]]:
        """Every key in the file's order with the place of its value."""
        first, tail = FIRST.match(self._bytes), max(0, len(self._bytes) - 4096)
        last = LAST.search(self._bytes[tail:])
        if first is None and EMPTY.match(self._bytes):
            return []
        if first is None or last is None:
            raise DataError(f"{self.path}: is no JSON mapping, or cut short; get it again")
        out: list[tuple[str, Span]] = []
        key, start = first[1], first.end()
        for match in NEXT.finditer(self._bytes, first.end()):
            out.append((_text(key), (start, match.start())))
            key, start = match[1], match.end()
        out.append((_text(key), (start, tail + last.start())))
        return out

    def repeated(self) -> list[str]:
        """Keys that stand twice in the outermost mapping; of their values only the last can be had."""
        keys = Counter(key for key, _ in self._found)
        twice = [key for key, n in keys.items() if n > 1]
        if not twice or all(self._parses(span) for _, span in self._found):
            return twice
        outermost: list[str] = []

        def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
            outermost[:] = [key for key, _ in found]  # The outermost mapping ends last.
            return dict(found)

        json.loads(self._bytes[:], object_pairs_hook=pairs)
        return [key for key, n in Counter(outermost).items() if n > 1]

    def _parses(self, span: Span) -> bool:
        try:
            json.loads(self._bytes[slice(*span)])
        except ValueError:
            return False
        return True

    def _read_whole(self) -> Mapping[str, Any]:
        whole = read_json_shared(self.path)
        if not isinstance(whole, dict):
            raise DataError(f"{self.path}: must map annotation ids to lists of RLE")
        self._whole = whole
        return whole

    def __getitem__(self, key: str) -> Any:
        if self._whole is not None:
            return self._whole[key]
        start, end = self._spans[key]
        try:
            return json.loads(self._bytes[start:end])
        except ValueError:
            return self._read_whole()[key]

    def __contains__(self, key: object) -> bool:
        return key in (self._spans if self._whole is None else self._whole)

    def __iter__(self) -> Iterator[str]:
        return iter(self._spans if self._whole is None else self._whole)

    def __len__(self) -> int:
        return len(self._spans if self._whole is None else self._whole)


def _text(key: bytes) -> str:
    try:
        return str(json.loads(b'"' + key + b'"'))
    except ValueError:
        return key.decode("utf-8", "replace")


def open_json(path: Path) -> Any:
    """The file's mapping: indexed where it is large, else parsed. Shared by splits as long as it does not change.

    Raises DataError if it is missing, cut short or not JSON.
    """
    try:
        stat = path.stat()
    except OSError:
        return read_json_shared(path)
    if stat.st_size < INDEXED_FROM or _is_utf16(path):
        return read_json_shared(path)
    return _indexed(path, stat.st_mtime_ns, stat.st_size)


def _is_utf16(path: Path) -> bool:
    with path.open("rb") as file:
        return encoding_of(file.read(2)) == "utf-16"


@lru_cache(maxsize=4)
def _indexed(path: Path, _mtime_ns: int, _size: int) -> IndexedJson:
    return IndexedJson(path)
