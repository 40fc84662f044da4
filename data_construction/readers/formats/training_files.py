"""VTS-CoT traces and RL annotations as released: every record is an expression on its clip."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_construction.problems import Problem
from data_construction.readers.annotations import ClipEntry, Dialogue, Index, annotation_format, annotation_path
from data_construction.readers.records import VTSCoTRecord, check_indices, read_items
from data_construction.readers.stanza import SplitFiles, Stanza
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
        found: Found | None = None
        first = raw[0] if isinstance(raw, list) and raw else raw
        name = str(first.get("video_name", f"record {n}")) if isinstance(first, dict) else f"record {n}"
        item = f"record {n}"
        try:
            found = parse(path, n, raw)
            name, frames, expression, more = found
        except DataError as e:
            problems = (getattr(e, "problem", Problem("malformed_record", str(path), str(e), name, item=item)),)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as e:
            what = f"cannot be read ({type(e).__name__}: {e})"
            problems = (Problem("malformed_record", str(path), what, name, item=item),)
        if found is None:
            old = clips.get(name, ClipEntry(name, (), {}))
            frames, expressions, more = old.frames, old.expressions, {}
        else:
            old = clips.get(name, ClipEntry(name, frames, {}))
            expressions = {**old.expressions, expression.id: expression}
            if old.frames != frames:
                what = f"lists {len(frames)} frames, an earlier record of the clip lists {len(old.frames)} others"
                problems = (Problem("frames_differ", str(path), what, name, item=item),)
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
    record = VTSCoTRecord.from_dict(raw)
    check_indices(record, path, n)
    dialogue: Dialogue = record.conversations
    expression = Expression(str(n), record.exp, record.anno_id, kind=record.kind)
    return record.video_name, record.frames, expression, {"dialogues": {str(n): dialogue}, "records": {str(n): record}}


def _annotation(path: Path, n: int, raw: Any) -> Found:
    item = raw[0] if isinstance(raw, list) else raw
    frames = tuple(str(f) for f in item["frames"])
    existence = tuple(int(e) for e in item["mask_existence"])
    if not frames or not str(item["exp"]).strip():
        raise ValueError(f"has {len(frames)} frames and the text {item['exp']!r}")
    if len(existence) != len(frames) or set(existence) - {0, 1}:
        raise ValueError(f"mask_existence has {len(existence)} entries for {len(frames)} frames; wants 0 or 1 each")
    expression = Expression(str(n), str(item["exp"]), tuple(str(a) for a in item["anno_id"]))
    return str(item["video_name"]), frames, expression, {"existence": {str(n): existence}}
