"""Short single-turn conversations for the first supervised stage: name the target, then ``[SEG]`` (SPEC 2.6, stage 1).

They hold no interval and no keyframe: this stage teaches what a ``[SEG]`` state must say, the cold start teaches the
dialogue. One frame, few tokens: a step costs a fraction of a cold-start step.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from data_construction.atomic import write_json
from data_construction.cot.build import read_names
from data_construction.readers import Dataset, VTSCoTRecord
from data_construction.readers.records import frame_names
from rollout.types import Grounding, Sample

FILE = "segmentation_train.json"


def segmentation_record(sample: Sample, names: Iterable[str]) -> VTSCoTRecord:
    """One conversation on the clip's middle frame, which is what a first turn's ``[SEG]`` decodes."""
    frames = sample.clip.num_frames
    name = " and ".join(names) or "nothing"
    reply = f"<think>Step 1: {name}</think><answer><RefSeg> [SEG] </RefSeg></answer>"
    return VTSCoTRecord(
        video_name=sample.clip.name,
        frames=tuple(frame_names(sample.clip)),
        exp=sample.expression.text,
        anno_id=sample.expression.anno_ids,
        sample_frame_indice=(frames // 2,),
        cot_trace=(Grounding(0, frames - 1, frames // 2),),
        conversations=(("system", "segment"), ("human", f"<image>{sample.expression.text}"), ("gpt", reply)),
        kind=sample.expression.kind,
    )


def write_segmentation_file(dataset: Dataset, folder: Path, kinds: Iterable[str]) -> int:
    """Write ``segmentation_train.json`` for the expressions of ``kinds``; returns how many conversations."""
    wanted, names = set(kinds), read_names(dataset.root)
    records = []
    for sample in dataset.samples():
        if sample.expression.kind in wanted:
            known = names.get(sample.clip.name, {})
            records.append(segmentation_record(sample, [known.get(a, "target") for a in sample.expression.anno_ids]))
    write_json(folder / FILE, [r.to_dict() for r in records])
    return len(records)
