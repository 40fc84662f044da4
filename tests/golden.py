"""Check golden files: ``python -m tests.golden [FOLDER]``.

Every file of a known name in FOLDER is computed again and compared; ``tests/golden_files/README.md`` says what they
are. Exit status: 0 all passed; 1 a mismatch, an unreadable file or no golden file at all; 3 nothing is wrong but a
file's feature is not implemented.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.golden_checks import CHECKS
from tests.golden_checks.report import FileReport, check_file

_SHOWN = 10
"""Mismatching values printed per file."""


def check_folder(folder: Path) -> list[FileReport]:
    """A report for each golden file that ``folder`` holds, in a fixed order."""
    return [check_file(folder / name, check) for name, check in CHECKS.items() if (folder / name).is_file()]


def exit_status(reports: Sequence[FileReport]) -> int:
    """See the module's text."""
    if not reports or any(r.failed for r in reports):
        return 1
    return 0 if all(r.passed for r in reports) else 3


def main(argv: Sequence[str] | None = None) -> int:
    """Print one line per file, and what mismatches below it."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description="Check golden files in a folder.")
    known = f"holds any of: {', '.join(CHECKS)}; default: the files that come with the tests"
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent / "golden_files", help=known)
    folder: Path = parser.parse_args(argv).folder
    reports = check_folder(folder)
    for report in reports:
        print(report)
        for line in report.details[:_SHOWN]:
            print(f"  {line}")
        if len(report.details) > _SHOWN:
            print(f"  … and {len(report.details) - _SHOWN} more")
    if not reports:
        print(f"{folder}: holds no golden file; expected one of {', '.join(CHECKS)}")
    return exit_status(reports)


if __name__ == "__main__":
    sys.exit(main())
