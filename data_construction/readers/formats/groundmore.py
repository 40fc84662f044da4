"""GroundMoRe: questions on the actions of a clip; frames are listed from disk, masks count only during the action."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from data_construction.problems import Problem
from data_construction.readers.annotations import ClipEntry, Index, LazyIndex, annotation_format, annotation_path
from data_construction.readers.formats.meta_expressions import kind_of, read_videos
from data_construction.readers.listing import image_names
from data_construction.readers.stanza import SplitFiles, Stanza
from rollout.errors import DataError
from rollout.types import Expression

CLIP_TIMES = re.compile(r"(\d\d)(\d\d)_(\d\d)(\d\d)$")
"""A clip's name ends in its first and last time in the film: minutes and seconds, twice."""


@annotation_format("groundmore")
def parse_groundmore(root: Path, stanza: Stanza, files: SplitFiles) -> Index:
    """``{"videos": {clip: {"questions": {id: {question, obj_id, q_type, action_start, action_end, ...}}}}}``."""
    path = annotation_path(root, stanza, files)
    videos = read_videos(path, files.keys)
    return LazyIndex(videos, lambda name: _entry(root, path, name, videos[name], files), path)


def _entry(root: Path, path: Path, name: str, video: Any, files: SplitFiles) -> ClipEntry:
    if not isinstance(video, dict):
        raise Problem("malformed_clip", str(path), "is not a mapping", name).error()
    frames = _listed(root, name, files)
    problems: list[Problem] = []
    expressions: dict[str, Expression] = {}
    odd: dict[str, Problem] = {}
    questions = video.get(files.keys.expressions)
    for eid, body in (questions if isinstance(questions, dict) else {}).items():
        try:
            expressions[str(eid)] = _question(str(eid), name, body, files)
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            what = f"cannot be read ({type(e).__name__}: {e})"
            problems.append(Problem("malformed_expression", str(path), what, name, item=f"expression {eid}"))
            continue
        counted = window(expressions[str(eid)].anno_ids[0])[1]
        if counted is not None and not 0 <= counted.start < counted.stop:
            span = f"{body['action_start']} to {body['action_end']}"
            what = f"its action {span} is empty or before the clip's start (frames {counted.start}..{counted.stop - 1})"
            odd[str(eid)] = Problem("malformed_expression", str(path), what, name, item=f"expression {eid}")
    if not expressions and not problems:
        problems.append(Problem("no_expressions", str(path), "has no questions", name, remedy="remove the clip"))
    if not frames:
        folder = root / files.frames[0].split("{frame}")[0].format(clip=name)
        what = "has no frames on disk"
        problems.append(Problem("no_frames", str(folder), what, name, remedy="extract them at 6 frames a second"))
    return ClipEntry(name, frames, expressions, problems=tuple(problems), odd=odd)


def _listed(root: Path, name: str, files: SplitFiles) -> tuple[str, ...]:
    for pattern in files.frames:
        folder = (root / pattern.format(clip=name, frame="x")).parent
        if folder.is_dir():
            return tuple(image_names(folder))
    return ()


def _question(eid: str, clip: str, body: Any, files: SplitFiles) -> Expression:
    text = body[files.keys.text]
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{files.keys.text} is {text!r}")
    start, end = action_frames(clip, str(body["action_start"]), str(body["action_end"]), files.fps or 6)
    # The window is part of the id: the same object has other ground truth in another question.
    anno_id = f"{int(body[files.keys.anno_ids])}@{start}-{end}"
    return Expression(eid, text, (anno_id,), kind=kind_of(body.get(files.keys.kind), files))


def action_frames(clip: str, start: str, end: str, fps: float) -> tuple[int, int]:
    """First and last frame of an action (both belong to it): seconds into the clip * fps, the last one less by one.

    As the data set's own tool has it, nothing is cut: an action of no length ends before it begins, one may begin
    before the clip's first frame. Raises ValueError if the clip's name holds no times.
    """
    times = CLIP_TIMES.search(clip)
    if times is None:
        raise ValueError(f"clip name {clip!r} does not end in its times as MMSS_MMSS")
    begin = int(times[1]) * 60 + int(times[2])
    return round((seconds(start) - begin) * fps), round((seconds(end) - begin) * fps) - 1


def seconds(clock: str) -> int:
    """``H:MM:SS``, ``MM:SS`` or ``SS`` in seconds. Raises ValueError."""
    total = 0
    for part in clock.split(":"):
        total = total * 60 + int(part)
    return total


def window(anno_id: str) -> tuple[str, range | None]:
    """``("3", range(6, 18))`` of ``3@6-17``; no range where the id has no window. Raises DataError."""
    obj, mark, span = anno_id.partition("@")
    if not mark:
        return obj, None
    ends = re.fullmatch(r"(-?\d+)-(-?\d+)", span)
    if ends is None:
        raise DataError(f"annotation id {anno_id!r}: wants object@first-last")
    return obj, range(int(ends[1]), int(ends[2]) + 1)
