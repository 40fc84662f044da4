"""JSON lines that survive a kill: a line is written in one go, a torn last line is cut off when the job goes on."""

from __future__ import annotations

import fcntl
import json
import os
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from rollout.errors import DataError
from rollout.text_files import UTF16_MARKS

SYNC_EVERY = 64


class JsonLines:
    """Append-only writer. A killed process loses nothing that ``append`` returned from; a lost power supply loses at
    most the last 64 lines (``sync`` writes those through). A lock keeps a second job out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        self._unsynced = 0
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            self._file.close()
            raise DataError(f"{path}: another job writes this file; stop it or choose another folder") from e
        end = whole_length(path)
        self.dropped_bytes = path.stat().st_size - end
        """Length of the torn last line that was cut off; 0 if there was none."""
        if self.dropped_bytes:
            os.truncate(path, end)

    def append(self, value: Any) -> None:
        self._file.write(dump_line(value))
        self._file.flush()
        self._unsynced += 1
        if self._unsynced >= SYNC_EVERY:
            self.sync()

    def sync(self) -> None:
        """On disk when this returns."""
        os.fsync(self._file.fileno())
        self._unsynced = 0

    def close(self) -> None:
        if not self._file.closed:
            self.sync()
            self._file.close()

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def dump_line(value: Any) -> bytes:
    """One compact line with its newline. Text that UTF-8 cannot hold (half of a surrogate pair) is spelt out."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def whole_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(line number from 1, byte offset, line) of every line that ends in a newline, one in memory at a time.

    Blank ones are left out, and a byte order mark at the start. Raises DataError for a file in UTF-16: its lines are
    none.
    """
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1 and line.startswith(UTF16_MARKS):
                raise DataError(f"{path}: is UTF-16 text; save it as UTF-8")
            if number == 1 and line.startswith(BOM_UTF8):
                line, offset = line.removeprefix(BOM_UTF8), len(BOM_UTF8)
            if line.endswith(b"\n") and line.strip():
                yield number, offset, line
            offset += len(line)


def whole_length(path: Path) -> int:
    """Bytes up to and with the last newline."""
    with path.open("rb") as file:
        position = file.seek(0, os.SEEK_END)
        while position > 0:
            step = min(65536, position)
            file.seek(position - step)
            newline = file.read(step).rfind(b"\n")
            if newline >= 0:
                return position - step + newline + 1
            position -= step
    return 0
