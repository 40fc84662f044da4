"""The results file of a run: JSON lines, one record an expression, written the moment its clip is finished.

A line is written, flushed and synced in one go, so that a killed job leaves at most one torn last line: it lacks its
newline, and is cut off when the file is opened again to go on. Anything else that does not parse is an error.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from eval.results.record import ResultRecord
from rollout.errors import DataError

RESULTS_FILE = "results.jsonl"
"""What every command looks for in an evaluation's folder."""
Key = tuple[str, str]


class ResultsFile:
    """Append-only writer that knows what is already done.

    with ResultsFile(path) as results:
        if (clip, expression_id) not in results:
            results.append(record)

    A lock on the file keeps a second job from writing between our lines. Raises DataError for a duplicate, a record
    that does not hold together, a file with a broken line or one that another job has open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.dropped_bytes = _drop_torn_line(path)
            """Length of the torn last line that was cut off; 0 if there was none."""
            self.done: set[Key] = {record.key for record in iterate_results(path)}
        except BlockingIOError as error:
            self._file.close()
            raise DataError(f"{path}: another job writes these results; stop it or choose another folder") from error
        except DataError:
            self._file.close()
            raise

    def append(self, record: ResultRecord) -> None:
        """Write one record; on disk when this returns."""
        record.check(str(self.path))
        if record.key in self.done:
            raise DataError(f"{self.path}: {record.name} is already in the results; refused to write it twice")
        line = json.dumps(record.to_dict(), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.done.add(record.key)

    def __contains__(self, key: Key) -> bool:
        return key in self.done

    def __len__(self) -> int:
        return len(self.done)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def iterate_results(path: Path) -> Iterator[ResultRecord]:
    """Records in file order, one in memory at a time; a torn last line is left out.

    Raises DataError naming file and line for a line that is no record, and for a clip and expression seen before.
    """
    seen: dict[Key, int] = {}
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.endswith(b"\n"):
                return
            where = f"{path}, line {number}"
            try:
                record = ResultRecord.from_dict(json.loads(raw), where)
            except (UnicodeDecodeError, json.JSONDecodeError) as error:
                raise DataError(f"{where}: not JSON ({error}); remove the line and run again") from error
            if record.key in seen:
                raise DataError(f"{where}: {record.name} is already on line {seen[record.key]}")
            seen[record.key] = number
            yield record


def read_results(path: Path) -> list[ResultRecord]:
    """All records of a results file. Raises as ``iterate_results``; DataError if there is no such file."""
    if not path.is_file():
        raise DataError(f"{path}: no results file there")
    return list(iterate_results(path))


def _drop_torn_line(path: Path) -> int:
    """Cut what follows the last newline; returns how many bytes."""
    with path.open("rb+") as file:
        end = position = file.seek(0, os.SEEK_END)
        while position > 0:
            step = min(65536, position)
            file.seek(position - step)
            newline = file.read(step).rfind(b"\n")
            if newline >= 0:
                position = position - step + newline + 1
                break
            position -= step
        if position < end:
            file.truncate(position)
        return end - position
