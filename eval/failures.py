"""Expressions without a result, by name and reason: ``failed.jsonl`` beside the results.

They are no results: scoring lists them as missing and counts them 0, and the same command tries them again.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType

from eval.dialogue import Failure
from rollout.errors import WorkerError

FAILED_FILE = "failed.jsonl"
TOO_MANY = 50


class FailuresFile:
    """The failures of this run; those of an earlier one are being tried again, so the file starts empty.

    Raises WorkerError once ``too_many`` came in a row that are not the data's fault: then the set-up fails, not clips.
    """

    def __init__(self, path: Path, too_many: int = TOO_MANY) -> None:
        self.path, self.count = path, 0
        self._in_a_row, self._too_many = 0, too_many
        path.unlink(missing_ok=True)

    def append(self, clip: str, expression_id: str, failure: Failure) -> None:
        """On disk when this returns."""
        line = {"clip": clip, "expression_id": expression_id, "stage": failure.stage, "reason": failure.reason}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.count += 1
        self._in_a_row += failure.stage != "data"
        if self._in_a_row >= self._too_many:
            raise WorkerError(
                f"{self._in_a_row} expressions in a row failed, the last one ({clip}/{expression_id}) because: "
                f"{failure.reason}. All are in {self.path}; the same command tries them again"
            )

    def succeeded(self) -> None:
        self._in_a_row = 0

    def __enter__(self) -> FailuresFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        return None


def read_failures(path: Path) -> list[dict[str, str]]:
    """What a run could not do; empty if there is no such file. A torn last line is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
