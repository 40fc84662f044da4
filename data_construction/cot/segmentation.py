"""Short single-turn conversations for the first supervised stage: name the target, then ``[SEG]`` (SPEC 2.6, stage 1).

They hold no interval and no keyframe: this stage teaches what a ``[SEG]`` state must say, the cold start teaches the
dialogue. One frame, few tokens: a step costs a fraction of a cold-start step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from data_construction.cot.build import read_names
from data_construction.json_list_writer import JsonListWriter
from data_construction.problems import Progress
from data_construction.readers import Dataset, VTSCoTRecord
from data_construction.readers.records import frame_names
from rollout.errors import DataError
from rollout.frames import evenly_spaced
from rollout.types import Grounding, Sample

FILE = "segmentation_train.json"


def segmentation_record(sample: Sample, names: Iterable[str], shown: int = 1) -> VTSCoTRecord:
    """One conversation on ``shown`` frames: the clip's middle one, which a first turn's ``[SEG]`` decodes, or evenly.

    ``names``: what the targets are, where it is known; the reply then says it before ``[SEG]``.
    """
    frames = sample.clip.num_frames
    said = " and ".join(names)
    thought = f"<think>Step 1: {said}</think>" if said else ""
    reply = f"{thought}<answer><RefSeg> [SEG] </RefSeg></answer>"
    return VTSCoTRecord(
        video_name=sample.clip.name,
        frames=tuple(frame_names(sample.clip)),
        exp=sample.expression.text,
        anno_id=sample.expression.anno_ids,
        sample_frame_indice=(frames // 2,) if shown == 1 else tuple(evenly_spaced(0, frames - 1, shown)),
        cot_trace=(Grounding(0, frames - 1, frames // 2),),
        conversations=(("system", "segment"), ("human", f"<image>{sample.expression.text}"), ("gpt", reply)),
        kind=sample.expression.kind,
    )


def write_segmentation_file(
    dataset: Dataset,
    path: Path,
    kinds: Iterable[str] = (),
    shown: int = 1,
    on_problem: Callable[[DataError], None] | None = None,
    progress: Progress | None = None,
) -> int:
    """Write a conversation for every expression (of ``kinds``, if any are named) to ``path``; returns how many.

    What is wrong raises, or goes to ``on_problem`` and the rest goes on. The file is whole or not there.
    Raises DataError for a split without masks, or without one expression.
    """
    if dataset.masks is None:
        raise DataError(f"{dataset.root}: split {dataset.split} of {dataset.name} has no masks; nothing to segment")
    wanted, names = set(kinds), read_names(dataset.root)
    written = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = JsonListWriter(path)
    try:
        for done, sample in enumerate(dataset.samples(on_problem)):
            if progress is not None:
                progress(done, len(dataset), f"{dataset.name} {dataset.split}")
            if wanted and sample.expression.kind not in wanted:
                continue
            writer.add(segmentation_record(sample, _named(names, sample), shown).to_dict())
            written += 1
        if not written:
            raise DataError(f"{dataset.root}: split {dataset.split} of {dataset.name} has no usable expression {kinds}")
        writer.finish()
    finally:
        writer.abort()
    return written


def _named(names: dict[str, dict[str, str]], sample: Sample) -> list[str]:
    """The targets' names; ["nothing"] for none, and no name at all in a data set that does not say them."""
    if not names:
        return []
    known = names.get(sample.clip.name, {})
    return [known.get(a, "target") for a in sample.expression.anno_ids] or ["nothing"]
