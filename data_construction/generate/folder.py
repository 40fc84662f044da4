"""The folder of a job: what is done, what failed, and the promise that it all belongs together.

``job.json`` holds the settings that shape the traces, ``traces.jsonl`` the finished ones, ``failed.jsonl`` what could
not be made and why, ``spent.jsonl`` every answer that was paid for. A restart tries the failed ones again: a mended
file or a rested server may do.
"""

from __future__ import annotations

import fcntl
import json
from array import array
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from data_construction.atomic import write_json
from data_construction.generate.items import base_id, digest, split_id
from data_construction.generate.journal import Journal, read_lines
from data_construction.generate.spent import SpentFile
from data_construction.readers.files import read_json
from rollout.errors import DataError

TRACES, FAILED, SETTINGS, SPENT = "traces.jsonl", "failed.jsonl", "job.json", "spent.jsonl"


class JobFolder:
    """One job at a time holds a folder. Raises DataError if another does, or if it was begun with other settings."""

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.out = out
        self._lock = lock_folder(out)
        for left_behind in out.glob(".*.partial"):  # By a run that was killed: nobody else is here.
            left_behind.unlink()
        try:
            self.traces, self.failed = Journal(out / TRACES), Journal(out / FAILED)
            self._check_settings(settings)
            self.spent = SpentFile(out / SPENT)
            done = array("Q", (digest(line["id"]) for _, line in read_lines(out / TRACES)))
        except BaseException:
            self._lock.close()
            raise
        self._done = np.sort(np.asarray(done, dtype=np.uint64))

    def done(self, id: str) -> bool:
        """Whether ``traces.jsonl`` had this id when the folder was opened."""
        return _find(self._done, id) is not None

    def __len__(self) -> int:
        """Traces that were there when the folder was opened."""
        return len(self._done)

    def finish(self, ids: Iterable[str]) -> None:
        """Put both files into the order of ``ids``.

        Of an item's failures only the latest stays, and none where it has its trace by now or is no item any more.
        """
        ordered = np.array([digest(i) for i in ids], dtype=np.uint64)
        by_value = np.argsort(ordered, kind="stable")
        ranked = ordered[by_value]

        def place(_offset: int, line: dict[str, Any]) -> tuple[int, int]:
            base, attempt = split_id(str(line["id"]))
            at = _find(ranked, base)
            return len(ordered) if at is None else int(by_value[at]), attempt

        self.traces.rewrite(place)
        latest = {str(line["id"]): offset for offset, line in read_lines(self.out / FAILED)}
        cured = {line["id"] for _, line in read_lines(self.out / TRACES) if line["id"] in latest}

        def keep(offset: int, line: dict[str, Any]) -> tuple[int, int] | None:
            at = place(offset, line)
            stale = latest[line["id"]] != offset or line["id"] in cured or at[0] == len(ordered)
            return None if stale else at

        self.failed.rewrite(keep)

    def close(self) -> None:
        self.traces.close()
        self.failed.close()
        self.spent.close()
        self._lock.close()

    def __enter__(self) -> JobFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        """What a run that made no trace was started with binds nobody."""
        path = self.out / SETTINGS
        wanted = json.loads(json.dumps(settings))
        if not path.exists() or not self.traces.size:
            write_json(path, wanted)
            return
        found = read_json(path)
        for key in sorted({*found, *wanted}):
            if found.get(key) != wanted.get(key):
                raise DataError(
                    f"{path}: the traces there were made with {key} = {found.get(key)!r}, now it is "
                    f"{wanted.get(key)!r}; use the same settings to go on, or another folder"
                )


def lock_folder(folder: Path) -> IO[str]:
    """Make ``folder`` and keep others out of it until the handle is closed. Raises DataError if another is there."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / ".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        lock.close()
        raise DataError(f"{folder}: another job writes there; stop it or choose another folder") from e
    return lock


def _find(digests: NDArray[np.uint64], id: str) -> int | None:
    """Where the id's digest is among sorted ones."""
    value = np.uint64(digest(id))
    at = int(np.searchsorted(digests, value))
    return at if at < len(digests) and digests[at] == value else None


def final_attempts(lines: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """Of traces in order, the last attempt at each."""
    held: dict[str, Any] | None = None
    for line in lines:
        if held is not None and base_id(held["id"]) != base_id(line["id"]):
            yield held
        held = line
    if held is not None:
        yield held
