"""What a run left beside its results about how they came about: protocol, seed, versions, and why some are missing."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.results.failures import FAILED_FILE, failure_reasons
from rollout.errors import DataError

RUN_FILE = "run.json"
"""Written while the results are: ``protocol``, ``seed``, ``versions``."""
RUN_FILES = (RUN_FILE, "scores.json")
"""Looked at in this order; the second holds the same under ``info``, the versions as ``inference_versions``."""


@dataclass(frozen=True)
class RunInfo:
    """Empty where the run left nothing."""

    protocol: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    """Of what made the predictions; of several, where the run went on after an update."""
    failures: dict[str, str] = field(default_factory=dict)
    """``clip/expression`` -> why there is no result."""


def read_run_info(results: Path) -> RunInfo:
    """From the folder of a results file. Raises DataError for a file there that does not parse."""
    failures = failure_reasons(results.parent / FAILED_FILE)
    for name in RUN_FILES:
        raw = read_run_file(results.parent / name)
        info = raw.get("info", raw)
        try:
            if "protocol" in info:
                versions = info.get("inference_versions", {}) if info is not raw else info.get("versions", {})
                return RunInfo(dict(info["protocol"]), info.get("seed"), dict(versions), failures)
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{results.parent / name}: not what a run writes ({error}); remove the file") from error
    return RunInfo(failures=failures)


def read_run_file(path: Path) -> dict[str, Any]:
    """The mapping in a file; empty if there is none. Raises DataError for a file that holds something else."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not what a run writes ({error}); remove the file and run again") from error
    if not isinstance(raw, dict):
        raise DataError(f"{path}: not what a run writes (no mapping); remove the file and run again")
    return raw
