"""The two training files of SPEC 2.7: RL annotations and VTS-CoT traces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from data_construction.problems import Problem
from data_construction.readers.dataset import Dataset
from data_construction.readers.training_items import RLRecord, VTSCoTRecord, parse_annotation, parse_trace, read_items
from rollout.errors import DataError
from rollout.types import Clip, Expression, Sample
from rollout.video import split_frame_path

OnProblem = Callable[[DataError], None]
R = TypeVar("R")


def read_vts_cot(
    path: str | Path, on_problem: OnProblem | None = None, dataset: Dataset | None = None
) -> list[VTSCoTRecord]:
    """Every trace of ``path``. A malformed one, or one on other frames than the data set's, raises DataError naming
    file, record and clip, or goes to ``on_problem`` and the rest is read."""

    def parse(path: Path, n: int, raw: Any) -> VTSCoTRecord:
        record = parse_trace(path, n, raw)
        misfit = None if dataset is None else frames_problem(path, n, record, dataset)
        if misfit is not None:
            raise misfit.error()
        return record

    return [record for _, record in _records(Path(path), parse, on_problem)]


def frame_names(clip: Clip) -> tuple[str, ...]:
    """Frames as the data sets' files name them: without folder and suffix; of a video, its index in five digits."""
    inside = [split_frame_path(f) for f in clip.frames]
    return tuple(Path(f).stem if v is None else f"{v[1]:05d}" for f, v in zip(clip.frames, inside, strict=True))


def rl_annotation(sample: Sample, existence: NDArray[np.bool_]) -> dict[str, Any]:
    """One object of an RL annotation item. ``existence`` (T,): whether any target is visible in the frame."""
    return {
        "video_name": sample.clip.name,
        "frames": list(frame_names(sample.clip)),
        "exp": sample.expression.text,
        "anno_id": [int(a) if a.isdigit() else a for a in sample.expression.anno_ids],
        "mask_existence": [int(e) for e in existence],
    }


def read_rl_annotations(path: str | Path, dataset: Dataset, on_problem: OnProblem | None = None) -> Iterator[Sample]:
    """Samples of an RL annotation file, in its order; clips and masks come from ``dataset``.

    An item that is malformed, lists other frames than the data set, or whose ``mask_existence`` disagrees with the
    masks raises DataError naming file, record and clip, or goes to ``on_problem`` and the rest is read.
    """
    for n, record in _records(Path(path), parse_annotation, on_problem):
        clip, ids = record.video_name, record.anno_id
        try:
            misfit = frames_problem(Path(path), n, record, dataset)
            if misfit is not None:
                raise misfit.error()
            same = [e for e in dataset.expressions(clip) if e.text == record.exp and e.anno_ids == ids]
            expression = same[0] if same else Expression(f"rl{n}", record.exp, ids)
            sample = Sample(dataset.clip(clip), expression, dataset.masklets(clip, ids))
            existence = np.asarray(record.mask_existence, dtype=np.uint8)
            truth = sample.masklets.existence() if sample.masklets is not None else existence
            if (existence != truth).any():
                t = int(np.flatnonzero(existence != truth)[0])
                what = f"mask_existence is {existence[t]} where the masks say {truth[t]}"
                raise Problem("existence", str(path), what, clip, str(t), f"record {n}", "write it again").error()
        except DataError as e:
            if on_problem is None:
                raise
            on_problem(e)
            continue
        yield sample


def frames_problem(path: Path, n: int, record: RLRecord | VTSCoTRecord, dataset: Dataset) -> Problem | None:
    """Where a record's frames are not the data set's: its indices then mean other frames.

    Raises DataError if the data set's own clip cannot be used.
    """
    clip, item = record.video_name, f"record {n}"
    if clip not in dataset.index:
        what = f"is no clip of data set {dataset.name}, split {dataset.split}"
        return Problem("unknown_clip", str(path), what, clip, item=item, remedy="remove the record")
    known, found = frame_names(dataset.clip(clip)), record.frames
    if known == found or known == tuple(Path(f).stem for f in found) or dataset.index[clip].frames == found:
        return None
    t = next((t for t, (a, b) in enumerate(zip(found, known, strict=False)) if a != b), min(len(found), len(known)))
    what = f"lists {len(found)} frames, the data set has {len(known)}; they differ from index {t} on"
    return Problem("frames_differ", str(path), what, clip, item=item, remedy="write it again")


def _records(path: Path, parse: Callable[[Path, int, Any], R], on_problem: OnProblem | None) -> Iterator[tuple[int, R]]:
    """(place, record) of every item that can be read."""
    for n, raw in enumerate(read_items(path)):
        try:
            record = parse(path, n, raw)
        except DataError as e:
            if on_problem is None:
                raise
            on_problem(e)
            continue
        yield n, record
