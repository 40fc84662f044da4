"""Compare what a golden file expects with what we compute, and count."""

from __future__ import annotations

import json
import math
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    """One line of a golden file: what it expects and how to compute the same."""

    label: str
    expected: Any
    compute: Callable[[], Any]


@dataclass(frozen=True)
class Check:
    """All that is special to one golden file."""

    file: str
    tolerance: float
    cases: Callable[[Any], list[Case]]
    """From the file's JSON. An ImportError, here or in a case, means that the feature is not built yet."""


@dataclass
class FileReport:
    """The outcome for one file."""

    file: str
    tolerance: float
    cases: int = 0
    mismatches: int = 0
    deviation: float = 0.0
    """Largest difference between an expected and a found number, over all cases."""
    details: list[str] = field(default_factory=list)
    missing: str | None = None
    """Why the feature could not be imported."""

    @property
    def passed(self) -> bool:
        return self.missing is None and self.mismatches == 0 and self.cases > 0

    @property
    def failed(self) -> bool:
        """Something is wrong, beyond a feature that is not there yet."""
        return self.mismatches > 0 or (self.missing is None and self.cases == 0)

    def __str__(self) -> str:
        if self.missing is not None and not self.failed:
            return f"{self.file}: not implemented ({self.missing})"
        verdict = "passed" if self.passed else "FAILED"
        return (
            f"{self.file}: {self.cases} cases, {self.mismatches} mismatches, "
            f"largest deviation {self.deviation:.3g} (tolerance {self.tolerance:g}): {verdict}"
        )


def check_file(path: Path, check: Check) -> FileReport:
    """Run every case of ``path``. A case that raises, or a file that cannot be read, is a mismatch."""
    report = FileReport(check.file, check.tolerance)
    try:
        cases = check.cases(json.loads(path.read_text(encoding="utf-8")))
        if not cases:
            raise ValueError("the file holds no cases")
        for case in cases:
            _run(case, report)
    except ImportError as error:
        report.missing = str(error)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        report.mismatches += 1
        report.details.append(f"unreadable: {type(error).__name__}: {error}")
    return report


def _run(case: Case, report: FileReport) -> None:
    report.cases += 1
    try:
        found = case.compute()
    except ImportError:
        raise
    except Exception:  # whatever our code raises is this case's mismatch; the others still count
        report.mismatches += 1
        report.details.append(f"{case.label}: raised\n{traceback.format_exc(limit=-2)}")
        return
    wrong = []
    for where, expected, got, deviation in differences(case.expected, plain(found), report.tolerance):
        report.deviation = max(report.deviation, deviation)
        if where is not None:
            wrong.append(f"{case.label}{where}: expected {expected!r}, found {got!r}")
    if wrong:
        report.mismatches += 1
        report.details.extend(wrong)


def plain(value: Any) -> Any:
    """NumPy arrays and scalars as lists and numbers, tuples as lists, all the way down."""
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def differences(
    expected: Any, found: Any, tolerance: float, where: str = ""
) -> Iterator[tuple[str | None, Any, Any, float]]:
    """For each compared number and each mismatch: (where, or None if it agrees; expected; found; deviation)."""
    if isinstance(expected, dict) and isinstance(found, dict) and expected.keys() == found.keys():
        for key in expected:
            yield from differences(expected[key], found[key], tolerance, f"{where}.{key}")
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for i, (e, f) in enumerate(zip(expected, found, strict=True)):
            yield from differences(e, f, tolerance, f"{where}[{i}]")
    elif _is_number(expected) and _is_number(found):
        if math.isnan(expected) or math.isnan(found):
            agree, deviation = math.isnan(expected) and math.isnan(found), 0.0
        else:
            deviation = 0.0 if expected == found else abs(expected - found)
            agree = deviation <= tolerance
        yield None if agree else where, expected, found, deviation
    elif type(expected) is not type(found) or isinstance(expected, dict | list) or expected != found:
        yield where, expected, found, 0.0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
