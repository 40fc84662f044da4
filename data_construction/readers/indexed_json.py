"""A large JSON mapping read value by value: ReVOS' and MeViS' mask files are gigabytes, a clip needs a few kilobytes.

One pass finds where each value starts; nothing is parsed before it is asked for.
"""

from __future__ import annotations

import itertools
import json
import mmap
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from data_construction.readers.files import read_json_shared
from rollout.errors import DataError

INDEXED_FROM = 64 << 20
"""Bytes from which on a file is indexed; smaller ones are parsed whole and kept."""
FIRST = re.compile(rb'\s*\{\s*"([^"\\]*)"\s*:\s*(?=[\[{])')
NEXT = re.compile(rb'[\]}]\s*,\s*"([^"\\]*)"\s*:\s*(?=[\[{])')
LAST = re.compile(rb"[\]}]\s*\}\s*\Z")
INSIDE = (b"size", b"counts")
"""Keys of an RLE, whose values may be lists too."""


class IndexedJson(Mapping[str, Any]):
    """``{key: list or mapping, ...}`` on disk. A value is parsed whenever it is asked for.

    RLE text holds no comma, quote or space, so a key after a closing bracket is one of the outermost mapping. Where a
    file is laid out otherwise a slice does not parse, and the file is read whole after all.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._whole: Mapping[str, Any] | None = None
        with path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._spans = self._scan()

    def _scan(self) -> dict[str, tuple[int, int]]:
        first = FIRST.match(self._bytes)
        tail = max(0, len(self._bytes) - 4096)
        last = LAST.search(self._bytes[tail:])
        if first is None or last is None:
            raise DataError(f"{self.path}: is no JSON mapping, or cut short; get it again")
        spans: dict[str, tuple[int, int]] = {}
        key, start = first[1], first.end()
        plain = self._plain_style(first)
        found = iter(()) if plain is None else plain.finditer(self._bytes, first.end())
        head = next((m for m in found if m[1] not in INSIDE), None)
        rest = NEXT.finditer(self._bytes, first.end()) if head is None else itertools.chain([head], found)
        for match in rest:
            if match[1] not in INSIDE:
                spans[key.decode()] = (start, match.start() + 1)
                key, start = match[1], match.end()
        spans[key.decode()] = (start, tail + last.start() + 1)
        return spans

    def _plain_style(self, first: re.Match[bytes]) -> re.Pattern[bytes] | None:
        """A pattern with a fixed beginning, which is searched for several times as fast as the general one."""
        closing = b"]" if self._bytes[first.end() : first.end() + 1] == b"[" else b"}"
        space = {b'": ': b" ", b'":': b""}.get(first[0].partition(first[1])[2])
        if first[0][:2] != b'{"' or space is None:
            return None
        return re.compile(re.escape(closing + b"," + space + b'"') + rb'([^"\\]*)":' + space + rb"(?=[\[{])")

    def __getitem__(self, key: str) -> Any:
        if self._whole is not None:
            return self._whole[key]
        start, end = self._spans[key]
        try:
            return json.loads(self._bytes[start:end])
        except ValueError:
            self._whole = read_json_shared(self.path)
            if not isinstance(self._whole, dict):
                raise DataError(f"{self.path}: must map annotation ids to lists of RLE") from None
            return self._whole[key]

    def __contains__(self, key: object) -> bool:
        return key in (self._spans if self._whole is None else self._whole)

    def __iter__(self) -> Iterator[str]:
        return iter(self._spans if self._whole is None else self._whole)

    def __len__(self) -> int:
        return len(self._spans if self._whole is None else self._whole)


def open_json(path: Path) -> Any:
    """The file's mapping: indexed where it is large, else parsed. Shared by splits as long as it does not change.

    Raises DataError if it is missing, cut short or not JSON.
    """
    try:
        stat = path.stat()
    except OSError:
        return read_json_shared(path)
    if stat.st_size < INDEXED_FROM:
        return read_json_shared(path)
    return _indexed(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=4)
def _indexed(path: Path, _mtime_ns: int, _size: int) -> IndexedJson:
    return IndexedJson(path)
