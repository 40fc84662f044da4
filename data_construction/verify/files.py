"""The output folder of ``verify``: verdicts appended as they fall, and put into the input's order at the end.

The input may have grown since an earlier job (``cot --again`` adds attempts, each beside the one before), so a job goes
on by ids: 8 bytes a trace are held.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_construction.atomic import write_json
from data_construction.generate.items import base_id, digest
from data_construction.generate.journal import copy_lines, read_lines
from data_construction.readers.files import read_json
from data_construction.traces.jsonl import JsonLines, dump_line
from rollout.errors import DataError

VERIFIED, REJECTED, RETRY, MANIFEST = "verified.jsonl", "rejected.jsonl", "retry.jsonl", "verify.json"
RETRY_KEYS = ("id", "dataset", "split", "clip", "expression_id", "attempt", "check", "reason")


class OutFolder:
    """Opens ``folder`` for writing; what is there must come from the same ``settings``, or ``overwrite`` removes it.

    Raises DataError for a folder of other settings and for one that another job writes.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], overwrite: bool = False) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        manifest = folder / MANIFEST
        if overwrite:
            for name in (MANIFEST, VERIFIED, REJECTED, RETRY):
                (folder / name).unlink(missing_ok=True)
        if manifest.exists():
            kept = read_json(manifest)
            if not isinstance(kept, dict):
                raise DataError(f"{manifest}: not a mapping of settings; give another folder, or --overwrite")
            differ = [k for k in settings if kept.get(k) != settings[k]]
            if differ:
                what = f"was verified with {differ[0]} = {kept.get(differ[0])!r}, now {settings[differ[0]]!r}"
                raise DataError(f"{folder}: {what}; give another folder, or --overwrite")
        elif (folder / VERIFIED).exists() or (folder / REJECTED).exists():
            raise DataError(f"{folder}: holds results but no {MANIFEST}; give another folder, or --overwrite")
        else:
            write_json(manifest, settings)
        self._verified = JsonLines(folder / VERIFIED)
        try:
            self._rejected = JsonLines(folder / REJECTED)
        except DataError:
            self._verified.close()
            raise

    def rows(self) -> Iterable[dict[str, Any]]:
        """Every verdict there is, the verified first."""
        for name in (VERIFIED, REJECTED):
            for _, row in read_lines(self.folder / name):
                yield row

    def accept(self, row: dict[str, Any]) -> None:
        self._verified.append(row)

    def reject(self, row: dict[str, Any]) -> None:
        self._rejected.append(row)

    def finish(self, order: array[int]) -> int:
        """Both files in the order of the input's id digests, and ``retry.jsonl``; returns the length of that."""
        self._verified.sync()
        self._rejected.sync()
        digests = np.asarray(order, dtype=np.uint64)
        by_value = np.argsort(digests, kind="stable")
        for name in (VERIFIED, REJECTED):
            _sort(self.folder / name, digests[by_value], by_value)
        return self._write_retry()

    def close(self) -> None:
        self._verified.close()
        self._rejected.close()

    def _write_retry(self) -> int:
        """The last attempt at each expression that has no verified one."""
        sound = {digest(base_id(str(row["id"]))) for _, row in read_lines(self.folder / VERIFIED)}
        last: dict[int, int] = {}
        for offset, row in read_lines(self.folder / REJECTED):
            last[digest(base_id(str(row["id"])))] = offset
        path = self.folder / RETRY
        partial, count = path.with_name(f".{path.name}.partial"), 0
        with partial.open("wb") as file:
            for offset, row in read_lines(self.folder / REJECTED):
                key = digest(base_id(str(row["id"])))
                if "clip" in row and last[key] == offset and key not in sound:
                    file.write(dump_line({k: row[k] for k in RETRY_KEYS if k in row}))
                    count += 1
        partial.replace(path)
        return count


def _sort(path: Path, ranked: NDArray[np.uint64], places: NDArray[np.int64]) -> None:
    """Rows in the input's order; a file that is in order is left alone."""
    rows = []
    for offset, row in read_lines(path):
        at = int(np.searchsorted(ranked, np.uint64(digest(str(row["id"])))))
        rows.append((int(places[at]), offset))
    if rows != sorted(rows):
        copy_lines(path, np.array([offset for _, offset in sorted(rows)], dtype=np.int64), path)
