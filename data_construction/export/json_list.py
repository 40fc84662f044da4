"""A JSON list written and read item by item."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rollout.errors import DataError

CHUNK = 1 << 16


class JsonListWriter:
    """One item a line; the file has its name only once it is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        self._file = self.partial.open("w", encoding="utf-8")
        self._before = "[\n"

    def add(self, item: Any) -> None:
        self._file.write(self._before + json.dumps(item, ensure_ascii=False, separators=(",", ":")))
        self._before = ",\n"

    def finish(self) -> Path:
        self._file.write("\n]\n" if self._before != "[\n" else "[]\n")
        self._file.close()
        os.replace(self.partial, self.path)
        return self.path

    def abort(self) -> None:
        self._file.close()
        self.partial.unlink(missing_ok=True)


def read_json_list(path: Path) -> Iterator[Any]:
    """Items of a list, however it is laid out. Raises DataError naming the file and the item that does not parse."""
    decoder, text, number, closed = json.JSONDecoder(), "", -1, False
    with path.open(encoding="utf-8") as file:
        while not closed:
            more = file.read(CHUNK)
            text = (text + more).lstrip()
            if number < 0 and text:
                if not text.startswith("["):
                    raise DataError(f"{path}: must be a JSON list, begins with {text[:20]!r}")
                text, number = text[1:].lstrip(), 0
            while text and not closed:
                if text.startswith("]"):
                    closed = True
                    break
                try:
                    item, end = decoder.raw_decode(text)
                except ValueError as e:
                    if more:
                        break  # perhaps the item goes on in the next chunk
                    raise DataError(f"{path}: item {number} is not JSON ({e}); the file may be cut short") from e
                rest = text[end:].lstrip()
                if not rest and more:
                    break
                if not rest.startswith((",", "]")):
                    raise DataError(f"{path}: after item {number}: expected ',' or ']'; the file may be cut short")
                yield item
                number += 1
                text = rest[1:].lstrip() if rest.startswith(",") else rest
            if not more and not closed:
                raise DataError(f"{path}: the list does not end; the file is cut short")
