"""The output folder of ``verify``: verdicts appended as they fall, and put into the input's order at the end.

The input may have grown since an earlier job (``cot --again`` adds attempts, each beside the one before), so a job goes
on by ids: 8 bytes a trace are held.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_construction.atomic import write_json
from data_construction.generate.folder import lock_folder
from data_construction.generate.items import RETRY, base_id, digest
from data_construction.generate.journal import copy_lines, read_lines
from data_construction.readers.files import read_json
from data_construction.traces.jsonl import JsonLines, dump_line
from data_construction.verify.report import SET_ASIDE
from rollout.errors import DataError

VERIFIED, REJECTED, MANIFEST = "verified.jsonl", "rejected.jsonl", "verify.json"
RETRY_KEYS = ("id", "dataset", "split", "clip", "expression_id", "attempt", "check", "reason")


class OutFolder:
    """Opens ``folder`` for writing; what is there must come from the same ``settings``, or ``overwrite`` removes it.

    ``command`` is kept beside the settings and binds nobody. Verdicts that lay with the files and not with the writer
    (``SET_ASIDE``) are dropped: the files may have been mended. Raises DataError for a folder of other settings and
    for one that another job writes.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        overwrite: bool = False,
        command: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self._lock = lock_folder(folder)
        try:
            if overwrite:
                for name in (MANIFEST, VERIFIED, REJECTED, RETRY):
                    (folder / name).unlink(missing_ok=True)
            for left_behind in folder.glob(".*.partial"):  # By a run that was killed: nobody else is here.
                left_behind.unlink()
            self._check_settings(settings, command)
            _drop_set_aside(folder / REJECTED)
            self._verified = JsonLines(folder / VERIFIED)
            try:
                self._rejected = JsonLines(folder / REJECTED)
            except DataError:
                self._verified.close()
                raise
        except BaseException:
            self._lock.close()
            raise

    def _check_settings(self, settings: Mapping[str, Any], command: Mapping[str, Any] | None) -> None:
        """What a run without any verdict was started with binds nobody."""
        manifest, wanted = self.folder / MANIFEST, json.loads(json.dumps({**settings, "command": command}))
        kept: Any = {}
        if any((self.folder / name).is_file() and (self.folder / name).stat().st_size for name in (VERIFIED, REJECTED)):
            if not manifest.exists():
                raise DataError(f"{self.folder}: holds results but no {MANIFEST}; give another folder, or --overwrite")
            kept = read_json(manifest)
            if not isinstance(kept, dict):
                raise DataError(f"{manifest}: not a mapping of settings; give another folder, or --overwrite")
            differ = [k for k in wanted if k != "command" and kept.get(k) != wanted[k]]
            if differ:
                what = f"was verified with {differ[0]} = {kept.get(differ[0])!r}, now {wanted[differ[0]]!r}"
                raise DataError(f"{self.folder}: {what}; give another folder, or --overwrite")
        if kept != wanted:
            write_json(manifest, wanted)

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
        self._lock.close()

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
                if row.get("check") not in SET_ASIDE and last[key] == offset and key not in sound:
                    file.write(dump_line({k: row[k] for k in RETRY_KEYS if k in row}))
                    count += 1
        partial.replace(path)
        return count


def _drop_set_aside(path: Path) -> None:
    rows = [(offset, row.get("check") in SET_ASIDE) for offset, row in read_lines(path)]
    if any(aside for _, aside in rows):
        copy_lines(path, np.array([offset for offset, aside in rows if not aside], dtype=np.int64), path)


def _sort(path: Path, ranked: NDArray[np.uint64], places: NDArray[np.int64]) -> None:
    """Rows in the input's order; a file that is in order is left alone."""
    rows = []
    for offset, row in read_lines(path):
        at = int(np.searchsorted(ranked, np.uint64(digest(str(row["id"])))))
        rows.append((int(places[at]), offset))
    if rows != sorted(rows):
        copy_lines(path, np.array([offset for _, offset in sorted(rows)], dtype=np.int64), path)
