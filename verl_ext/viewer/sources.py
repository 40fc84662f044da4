"""From a folder to what it is: a training run, an evaluation, or traces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_construction.traces import Sources
from eval.report.folder import evaluation_folders
from eval.traces.choose import trace_sources
from rollout.errors import DataError
from verl_ext.rollout_log import FOLDER
from verl_ext.run.run_files import LIVE_METRICS, METRICS
from verl_ext.viewer.evaluations import EvaluationSource
from verl_ext.viewer.model import Source
from verl_ext.viewer.runs import RunSource
from verl_ext.viewer.trace_files import TraceSource

STARTED = "resolved.yaml"
"""A run that has not made a step has written this."""


def open_source(folder: Path, roots: Sequence[str] = ()) -> Source:
    """``roots``: the data sets' folders as ``PATH`` or ``NAME=PATH``; a run knows its own.

    Raises:
        DataError: it is not there, or nothing that can be shown; of a folder of several, their names.
    """
    if not folder.exists():
        raise DataError(f"{folder}: is not there; give a run's folder, an evaluation's, or one of traces")
    folder = folder.resolve()
    if is_run(folder):
        return RunSource(folder)
    evaluations = evaluation_folders(folder)
    if evaluations == [folder]:
        return EvaluationSource(folder, Path(roots[0].rpartition("=")[2]) if roots else None)
    if _holds_traces(folder):
        return TraceSource(folder, Sources.parse(roots) if roots else None)
    below = sorted(
        {
            *evaluations,
            *(p.parent for p in folder.glob(f"*/{METRICS}")),
            *(p.parent for p in folder.glob("*/" + FOLDER)),
        }
    )
    kept = [path for path in below if (path / FOLDER).is_dir()]
    if len(kept) == 1:
        return RunSource(kept[0])
    if below:
        names = ", ".join(str(path.relative_to(folder)) for path in below)
        raise DataError(f"{folder}: holds several; give one of them: {names}")
    raise DataError(
        f"{folder}: nothing to view; a run has {METRICS} or {FOLDER}/, an evaluation results.jsonl, traces traces.jsonl"
    )


def is_run(folder: Path) -> bool:
    names = (METRICS, LIVE_METRICS, FOLDER, STARTED)
    return folder.is_dir() and any((folder / name).exists() for name in names)


def _holds_traces(path: Path) -> bool:
    try:
        return bool(trace_sources(path))
    except DataError:
        return False
