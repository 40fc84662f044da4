"""Expressions without a result, by name and reason: ``failed.jsonl`` beside the results.

They are no results: scoring lists them as missing and counts them 0, and the same command tries them again. The reason
stays in the file until there is a result, or a newer reason.
"""

from __future__ import annotations

import json
import os
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from data_construction.atomic import write_whole
from rollout.errors import DataError, WorkerError

FAILED_FILE = "failed.jsonl"
TOO_MANY = 50

Key = tuple[str, str]
Line = dict[str, str]


@dataclass(frozen=True)
class Failure:
    """Why there is no result for an expression. Never scored as if the model had answered."""

    reason: str
    stage: str = "dialogue"
    """``data``, ``dialogue`` or ``masks``."""
    retry: bool = False
    """Whether the same thing may well succeed when it is tried again."""


class FailuresFile:
    """The failures of this run, and the earlier ones that it has not settled yet.

    Args:
        done: expressions that have a result; reasons why they once had none are dropped.
        too_many: WorkerError once so many came in a row that are not the data's fault: then the set-up fails.
    """

    def __init__(self, path: Path, done: Container[Key] = (), too_many: int = TOO_MANY) -> None:
        self.path, self.count = path, 0
        self._in_a_row, self._too_many = 0, too_many
        self._reasons = {key: line for key, line in _by_key(read_failures(path)).items() if key not in done}
        if path.exists():
            self._rewrite()  # without what is done by now, and without a torn line that the next one would be glued to

    def append(self, clip: str, expression_id: str, failure: Failure) -> None:
        """On disk when this returns; of two lines about an expression the later one holds."""
        line = {"clip": clip, "expression_id": expression_id, "stage": failure.stage, "reason": failure.reason}
        self._reasons[clip, expression_id] = line
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_text(line))
            file.flush()
            os.fsync(file.fileno())
        self.count += 1
        self._in_a_row += failure.stage != "data"
        if self._in_a_row >= self._too_many:
            raise WorkerError(
                f"{self._in_a_row} expressions in a row failed, the last one ({clip}/{expression_id}) because: "
                f"{failure.reason}. All are in {self.path}; the same command tries them again"
            )

    def succeeded(self, key: Key) -> None:
        """There is a result now."""
        self._in_a_row = 0
        if self._reasons.pop(key, None) is not None:
            self._rewrite()

    def _rewrite(self) -> None:
        if self._reasons:
            write_whole(self.path, "".join(map(_text, self._reasons.values())))
        else:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> FailuresFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if len(read_failures(self.path)) != len(self._reasons):
            self._rewrite()


def read_failures(path: Path) -> list[Line]:
    """What runs could not do; empty if there is no such file. A torn last line, which a killed run leaves, is left out.

    Raises DataError naming file and line for a line that is no failure.
    """
    if not path.is_file():
        return []
    found: list[Line] = []
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.endswith(b"\n"):
                break
            try:
                line = json.loads(raw)
                found.append({name: str(line[name]) for name in ("clip", "expression_id", "stage", "reason")})
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                raise DataError(f"{path}, line {number}: not a failure ({error}); remove the file") from error
    return found


def failure_reasons(path: Path) -> dict[str, str]:
    """``clip/expression`` -> why there is no result."""
    lines = _by_key(read_failures(path))
    return {f"{clip}/{expression_id}": line["reason"] for (clip, expression_id), line in lines.items()}


def _by_key(lines: list[Line]) -> dict[Key, Line]:
    return {(line["clip"], line["expression_id"]): line for line in lines}


def _text(line: Line) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"
