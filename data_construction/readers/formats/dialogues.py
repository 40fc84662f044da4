"""Videos with words and no masks: ChatUniVi's conversations, TimeLens' events."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_construction.problems import Problem
from data_construction.readers.annotations import ClipEntry, Dialogue, Index, LazyIndex, annotation_format
from data_construction.readers.annotations import annotation_path as path_of
from data_construction.readers.files import read_json
from data_construction.readers.frame_files import video_file
from data_construction.readers.stanza import SplitFiles, Stanza
from rollout.errors import DataError
from rollout.text_files import read_text
from rollout.types import Expression
from rollout.video import video_times


@annotation_format("chat_univi")
def parse_chat_univi(root: Path, stanza: Stanza, files: SplitFiles) -> Index:
    """``[{id, video, conversations: [{from, value}]}]``; a clip is a video, an expression its first question."""
    path = path_of(root, stanza, files)
    raw = read_json(path)
    if not isinstance(raw, list):
        raise DataError(f"{path}: must be a list of conversations, found {type(raw).__name__}")
    return _by_video(path, root, files, list(enumerate(raw)), "video", _conversation)


@annotation_format("timelens")
def parse_timelens(root: Path, stanza: Stanza, files: SplitFiles) -> Index:
    """JSON lines ``{video_path, duration, events: [{query, span: [[start, end]]}]}``, times in seconds."""
    path = path_of(root, stanza, files)
    try:
        lines = read_text(path).split("\n")  # Other ends of lines may stand inside of a text.
    except (OSError, ValueError) as e:
        raise DataError(f"{path}: cannot be read ({e}); check the data set's root folder") from e
    items: list[tuple[int, Any]] = []
    for n, line in enumerate(lines):
        if line.strip():
            try:
                items.append((n, json.loads(line)))
            except ValueError as e:
                raise DataError(f"{path}: line {n + 1} is not JSON ({e}); the file may be cut short") from e
    return _by_video(path, root, files, items, "video_path", _events)


Times = NDArray[np.float64] | None
"""(T,) seconds of a video's frames; None where it is not there."""
Add = Callable[[ClipEntry, int, Any, Times], list[str]]
"""Puts an item's expressions into the entry; returns what is wrong with parts of it, raises where it is no item."""
FAULTS = (KeyError, TypeError, ValueError, IndexError, AttributeError)


def _by_video(path: Path, root: Path, files: SplitFiles, items: list[tuple[int, Any]], key: str, add: Add) -> LazyIndex:
    """Entries by video; frames are counted when one is asked for."""
    clips: dict[str, list[tuple[int, Any]]] = {}
    for n, item in items:
        name = item.get(key) if isinstance(item, dict) else None
        clips.setdefault(name if isinstance(name, str) and name else f"item {n}", []).append((n, item))

    def make(name: str) -> ClipEntry:
        problems: list[Problem] = []
        file = video_file(root, files, name)
        times = video_times(file) if file.is_file() else None
        frames = tuple(str(i) for i in range(0 if times is None else len(times)))
        dialogues: dict[str, Dialogue] = {}
        existence: dict[str, tuple[int, ...]] = {}
        entry = ClipEntry(name, frames, {}, video=name, dialogues=dialogues, existence=existence)
        for n, item in clips[name]:
            try:
                faults = add(entry, n, item, times)
            except FAULTS as e:
                faults = [f"{type(e).__name__}: {e}"]
            for fault in faults:
                what = f"cannot be read ({fault})"
                problems.append(Problem("malformed_record", str(path), what, name, item=f"item {n}"))
        if times is None:
            problems.append(Problem("missing_frame", str(file), "does not exist", name, remedy="get the video"))
        elif not entry.expressions and not problems:
            problems.append(Problem("no_expressions", str(path), "has no questions", name, remedy="remove it"))
        return ClipEntry(
            name, frames, entry.expressions, problems=tuple(problems), video=name,
            dialogues=dialogues, existence=existence,
        )  # fmt: skip

    return LazyIndex(clips, make, path)


def _conversation(entry: ClipEntry, n: int, item: Any, times: Times) -> list[str]:
    eid = str(item.get("id", n))
    turns = tuple((str(c["from"]), str(c["value"])) for c in item["conversations"])
    asked = [v.replace("<video>", "").strip() for who, v in turns if who == "human"]
    if not asked or not any(who == "gpt" for who, _ in turns) or not asked[0]:
        raise ValueError("needs a question by 'human' and an answer by 'gpt'")
    if eid in entry.expressions:
        raise ValueError(f"id {eid} is there twice")
    entry.expressions[eid] = Expression(eid, asked[0], kind="dialogue")
    entry.dialogues[eid] = turns  # type: ignore[index]
    return []


def _events(entry: ClipEntry, n: int, item: Any, times: Times) -> list[str]:
    faults: list[str] = []
    for k, event in enumerate(item["events"]):
        eid = f"{n}_{k}"
        try:
            query, existence = _event(event, times)
        except FAULTS as e:
            faults.append(f"event {k}: {type(e).__name__}: {e}")
            continue
        entry.expressions[eid] = Expression(eid, query, kind=str(item.get("source", "")))
        entry.existence[eid] = existence  # type: ignore[index]
    return faults


def _event(event: Any, times: Times) -> tuple[str, tuple[int, ...]]:
    """The query and, of every frame, whether it lies in one of the event's spans (seconds, both ends included)."""
    query = " ".join(str(event["query"]).split()).strip(". ")
    spans = event["span"] if isinstance(event["span"][0], list) else [event["span"]]
    bounds = [(float(start), float(end)) for start, end in spans]
    if not query or any(not 0 <= s <= e for s, e in bounds):
        raise ValueError(f"has query {query!r} and span {spans}")
    if times is None:
        return query, ()
    existence = tuple(int(any(s <= t <= e for s, e in bounds)) for t in times)
    if not any(existence):
        raise ValueError(f"span {spans} lies outside the video's {times[-1]:.1f} seconds")
    return query, existence
