"""What a run left beside its results about how they came about: protocol, seed, and why some are missing."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rollout.errors import DataError

RUN_FILES = ("run.json", "scores.json")
"""Looked at in this order; each holds ``protocol`` and ``seed`` at its top or under ``info``."""
FAILED_FILE = "failed.jsonl"


@dataclass(frozen=True)
class RunInfo:
    """Empty where the run left nothing."""

    protocol: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    failures: dict[str, str] = field(default_factory=dict)
    """``clip/expression`` -> why there is no result."""


def read_run_info(results: Path) -> RunInfo:
    """From the folder of a results file. Raises DataError for a file there that does not parse."""
    failures = _failures(results.parent / FAILED_FILE)
    for name in RUN_FILES:
        path = results.parent / name
        if not path.is_file():
            continue
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            info = raw.get("info", raw)
            if "protocol" in info:
                return RunInfo(dict(info["protocol"]), info.get("seed"), failures)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: not what a run writes ({error}); remove the file and run again") from error
    return RunInfo(failures=failures)


def _failures(path: Path) -> dict[str, str]:
    """A torn last line, which a killed run leaves, is left out."""
    if not path.is_file():
        return {}
    found: dict[str, str] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                raw = json.loads(line)
                found[f"{raw['clip']}/{raw['expression_id']}"] = str(raw["reason"])
            except (ValueError, TypeError, KeyError) as error:
                raise DataError(f"{path}, line {number}: not a failure ({error}); remove the file") from error
    return found
