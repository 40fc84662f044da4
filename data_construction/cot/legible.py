"""One legible frame and what can be read in it: for the part of a tiny policy that stands in for a pretrained one."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from data_construction.atomic import write_json
from data_construction.cot.build import read_marks, read_names
from data_construction.cot.closeup import reading
from data_construction.cot.tracks import SceneObject
from data_construction.problems import Progress
from data_construction.readers import Dataset, VTSCoTRecord
from data_construction.readers.records import frame_names
from rollout.errors import DataError
from rollout.types import Grounding, Sample

FILE = "reading_train.json"


def write_reading_file(
    dataset: Dataset, path: Path, seed: int, progress: Progress | None = None, frames: int = 1
) -> int:
    """Write single-frame conversations to ``path``; returns how many.

    Args:
        frames: conversations an expression, at most, each on another of its legible frames. Few pictures are
            learnt by heart instead of being read.
    Raises DataError for an expression that says in no frame what it asks for, or whose objects have no marks.
    """
    names, marks = read_names(dataset.root), read_marks(dataset.root)
    records: list[dict[str, Any]] = []
    asked = [(clip, expression) for clip in dataset.clips() for expression in dataset.expressions(clip)]
    for done, (clip, expression) in enumerate(asked):
        if progress is not None:
            progress(done, len(asked), "planning conversations on legible frames")
        sample = Sample(dataset.clip(clip), expression)  # without masks, which take most of a sample's time
        objects = [_object(a, name, marks.get(a, "")) for a, name in names.get(sample.clip.name, {}).items()]
        records += [record.to_dict() for record in reading_records(sample, objects, seed, frames)]
    write_json(path, records)
    return len(records)


def reading_records(sample: Sample, objects: list[SceneObject], seed: int, frames: int = 1) -> list[VTSCoTRecord]:
    """The marks of as many legible frames, drawn by ``seed``, and which of them is asked for."""
    target = next((o for o in objects if o.anno_id in sample.expression.anno_ids), None)
    if target is None or not target.mark or not sample.expression.legible:
        raise DataError(f"clip {sample.clip.name}, {sample.id}: no frame shows the mark of its target")
    rng = np.random.default_rng([seed, zlib.crc32(sample.id.encode())])
    shown = rng.permutation(sorted(sample.expression.legible))[:frames].tolist()
    thought = f"<think>{reading(objects, target.mark, target.name)}</think>"
    return [_record(sample, frame, thought) for frame in shown]


def _record(sample: Sample, shown: int, thought: str) -> VTSCoTRecord:
    return VTSCoTRecord(
        video_name=sample.clip.name,
        frames=tuple(frame_names(sample.clip)),
        exp=sample.expression.text,
        anno_id=sample.expression.anno_ids,
        sample_frame_indice=(shown,),
        cot_trace=(Grounding(0, sample.clip.num_frames - 1, shown),),
        conversations=(
            ("system", "segment"),
            ("human", f"<image>{sample.expression.text}"),
            ("gpt", f"{thought}<answer><RefSeg> [SEG] </RefSeg></answer>"),
        ),
        kind=sample.expression.kind,
    )


def _object(anno_id: str, name: str, mark: str) -> SceneObject:
    return SceneObject(anno_id, name, np.zeros(0, dtype=np.int64), np.zeros((0, 2)), mark=mark)
