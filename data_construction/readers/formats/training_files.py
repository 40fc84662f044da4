"""VTS-CoT traces and RL annotations as released: every record is an expression on its clip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_construction.problems import Problem, problem_of
from data_construction.readers.annotations import ClipEntry, Dialogue, Index, annotation_format, annotation_path
from data_construction.readers.listing import in_order
from data_construction.readers.stanza import SplitFiles, Stanza
from data_construction.readers.training_items import clip_of, parse_annotation, parse_trace, read_items
from rollout.errors import DataError
from rollout.types import Expression


@annotation_format("vts_cot")
def parse_vts_cot(root: Path, stanza: Stanza, files: SplitFiles) -> Index:
    """SPEC 2.7's traces; an expression's id is the record's place in the file, ``records`` holds it whole."""
    return _by_clip(annotation_path(root, stanza, files), _trace)


@annotation_format("rl_annotations")
def parse_rl_annotations(root: Path, stanza: Stanza, files: SplitFiles) -> Index:
    """SPEC 2.7's RL items, object 0 of each; ``existence`` is what the file says of it."""
    return _by_clip(annotation_path(root, stanza, files), _annotation)


Found = tuple[str, tuple[str, ...], Expression, dict[str, Any]]


def _by_clip(path: Path, parse: Callable[[Path, int, Any], Found]) -> Index:
    clips: dict[str, ClipEntry] = {}
    for n, raw in enumerate(read_items(path)):
        problems: tuple[Problem, ...] = ()
        try:
            name, frames, expression, more = parse(path, n, raw)
        except DataError as e:
            name = clip_of(raw) or f"record {n}"
            old = clips.get(name, ClipEntry(name, (), {}))
            clips[name] = replace(old, problems=(*old.problems, problem_of(e, str(path), "malformed_record", name)))
            continue
        old = clips.get(name, ClipEntry(name, frames, {}))
        expressions = {**old.expressions, expression.id: expression}
        if frames != tuple(in_order(frames)):
            what = "lists its frames out of order, so that its indices and the masks may mean other frames"
            problems = (Problem("frame_order", str(path), what, name, item=f"record {n}", remedy="write it again"),)
            expressions, more, frames = old.expressions, {}, old.frames
        elif old.frames and old.frames != frames:
            what = f"lists {len(frames)} frames, an earlier record of the clip lists {len(old.frames)} others"
            problems = (Problem("frames_differ", str(path), what, name, item=f"record {n}"),)
            expressions, more = old.expressions, {}
        clips[name] = ClipEntry(
            name,
            old.frames or frames,
            expressions,
            problems=(*old.problems, *problems),
            existence={**old.existence, **more.get("existence", {})},
            dialogues={**old.dialogues, **more.get("dialogues", {})},
            records={**old.records, **more.get("records", {})},
        )
    return clips


def _trace(path: Path, n: int, raw: Any) -> Found:
    record = parse_trace(path, n, raw)
    dialogue: Dialogue = record.conversations
    expression = Expression(str(n), record.exp, record.anno_id, kind=record.kind)
    return record.video_name, record.frames, expression, {"dialogues": {str(n): dialogue}, "records": {str(n): record}}


def _annotation(path: Path, n: int, raw: Any) -> Found:
    record = parse_annotation(path, n, raw)
    expression = Expression(str(n), record.exp, record.anno_id)
    return record.video_name, record.frames, expression, {"existence": {str(n): record.mask_existence}}
