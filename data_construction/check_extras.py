"""What ``videoseg data check`` does besides: pictures of samples, and comparing files with a manifest."""

from __future__ import annotations

from pathlib import Path

from data_construction.check import CheckReport
from data_construction.check_draw import draw_samples
from data_construction.check_manifest import verify_manifest
from data_construction.problems import Progress, problem_of
from data_construction.readers import open_dataset
from rollout.errors import DataError


def draw_splits(report: CheckReport, count: int, folder: Path) -> str:
    """Draw ``count`` samples of every split that was checked; what cannot be drawn joins the report's problems."""
    errors: list[DataError] = []
    written: list[Path] = []
    for split in report.splits:
        dataset = open_dataset(report.name, report.root, split)
        written += draw_samples(dataset, count, folder, errors.append)
    report.add(problem_of(e, report.root, "not_drawn") for e in errors)
    return f"{folder}: {len(written)} samples drawn" + (f", {len(errors)} could not be" if errors else "")


def verify(report: CheckReport, manifest: Path, progress: Progress | None = None) -> str:
    """Compare the data set's files with ``manifest``; every difference joins the report's problems."""
    found = list(verify_manifest(Path(report.root), manifest, progress))
    report.add(found)
    return f"{manifest}: {len(found)} differences" if found else f"{manifest}: every file is as it was"
