"""JSON lines that are on disk when ``append`` returns, and that can be put in order afterwards."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_construction.traces.jsonl import dump_line, whole_length, whole_lines
from rollout.errors import DataError


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(byte offset, object) of every whole line, one in memory at a time; a torn last line is left out.

    Raises DataError naming file and line where a whole line is no JSON object.
    """
    if not path.exists():
        return
    for number, offset, raw in whole_lines(path):
        try:
            value = json.loads(raw)
        except ValueError as e:
            raise DataError(f"{path}, line {number}: not JSON ({e}); remove the line and run again") from e
        if not isinstance(value, dict):
            raise DataError(f"{path}, line {number}: not a JSON object; remove the line and run again")
        yield offset, value


class Journal:
    """Append-only. Opening cuts a torn last line; the caller sees to it that nobody else writes (``JobFolder``)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab")
        whole = whole_length(path)
        if whole < path.stat().st_size:
            os.truncate(path, whole)

    @property
    def size(self) -> int:
        """Bytes of whole lines."""
        return self.path.stat().st_size

    def append(self, values: Iterable[dict[str, Any]]) -> None:
        """Write some lines in one go, and wait for the disk once."""
        self._file.write(b"".join(map(dump_line, values)))
        self._file.flush()
        os.fsync(self._file.fileno())

    def rewrite(self, key: Callable[[int, dict[str, Any]], tuple[int, int] | None]) -> None:
        """Sort by ``key(offset, line)``, two integers, equal ones as they came; lines without a key are dropped.

        All or nothing. Holds 32 bytes a line in memory, and leaves a file alone that is in order.
        """
        found, every = array("q"), array("q")
        for offset, value in read_lines(self.path):
            every.append(offset)
            place = key(offset, value)
            if place is not None:
                found.extend((*place, offset))
        rows = np.asarray(found, dtype=np.int64).reshape(-1, 3)
        offsets = rows[np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0])), 2]
        if not np.array_equal(offsets, np.asarray(every, dtype=np.int64)):
            self._file.close()
            copy_lines(self.path, offsets, self.path)
            self._file = self.path.open("ab")

    def close(self) -> None:
        self._file.close()


def copy_lines(source: Path, offsets: NDArray[np.int64], target: Path) -> None:
    """Lines of ``source`` at ``offsets`` become ``target``, in one step, on disk when this returns."""
    temporary = target.with_name(f".{target.name}.partial")
    with source.open("rb") as lines, temporary.open("wb") as out:
        for offset in offsets:
            lines.seek(int(offset))
            out.write(lines.readline())
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """A rename is on disk only once its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
