"""Annotation formats: from a split's files to an index of clips and expressions.

A new format is a function under ``@annotation_format``; stanzas name it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_construction.problems import Problem
from data_construction.readers.files import read_json
from data_construction.readers.stanza import Keys, SplitFiles, Stanza
from rollout.errors import DataError
from rollout.types import Expression


@dataclass(frozen=True)
class ClipEntry:
    """One clip of the index. ``height`` and ``width`` are None where the annotation file does not say."""

    name: str
    frames: tuple[str, ...]
    expressions: dict[str, Expression]
    height: int | None = None
    width: int | None = None
    problems: tuple[Problem, ...] = ()
    """What the annotation file says wrongly about this clip."""


Parser = Callable[[Path, Stanza, SplitFiles], dict[str, ClipEntry]]
FORMATS: dict[str, Parser] = {}
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def annotation_format(name: str) -> Callable[[Parser], Parser]:
    """Register a parser under the name that stanzas use."""

    def register(parser: Parser) -> Parser:
        FORMATS[name] = parser
        return parser

    return register


def read_index(root: Path, stanza: Stanza, files: SplitFiles) -> dict[str, ClipEntry]:
    """Clips by name, in the file's order. Raises DataError if the file as a whole is unusable."""
    if stanza.annotation_format not in FORMATS:
        raise DataError(f"data set {stanza.name}: no annotation format {stanza.annotation_format!r}; {list(FORMATS)}")
    return FORMATS[stanza.annotation_format](root, stanza, files)


@annotation_format("meta_expressions")
def parse_meta_expressions(root: Path, stanza: Stanza, files: SplitFiles) -> dict[str, ClipEntry]:
    """``{"videos": {clip: {"frames", "expressions": {id: {...}} | [...], "height"?, "width"?}}}`` (SPEC 2.7)."""
    if files.annotations is None:
        raise DataError(f"data set {stanza.name}: its stanza names no annotation file for this split")
    path = root / files.annotations
    raw = read_json(path)
    videos = raw.get(stanza.keys.videos) if isinstance(raw, dict) else None
    if not isinstance(videos, dict):
        raise DataError(f"{path}: no mapping under {stanza.keys.videos!r}; is this the data set's annotation file?")
    return {str(name): _parse_video(path, str(name), video, stanza.keys) for name, video in videos.items()}


def _parse_video(path: Path, name: str, video: Any, keys: Keys) -> ClipEntry:
    if not isinstance(video, dict):
        return ClipEntry(name, (), {}, problems=(Problem("malformed_clip", str(path), "is not a mapping", name),))
    problems: list[Problem] = []
    frames = video.get(keys.frames)
    if not isinstance(frames, list) or not frames:
        problems.append(
            Problem("no_frames", str(path), "expressions without frames", name, remedy=f"list them in {keys.frames!r}")
        )
        frames = []
    raw = video.get(keys.expressions)
    items = raw.items() if isinstance(raw, dict) else enumerate(raw if isinstance(raw, list) else [])
    expressions: dict[str, Expression] = {}
    for eid, body in items:
        try:
            expressions[str(eid)] = _parse_expression(str(eid), body, keys)
        except (KeyError, TypeError, ValueError) as e:
            what = f"cannot be read ({type(e).__name__}: {e}); needs {keys.text!r} as text"
            problems.append(Problem("malformed_expression", str(path), what, name, item=f"expression {eid}"))
    if not expressions and not problems:
        problems.append(Problem("no_expressions", str(path), "has no expressions", name, remedy="remove the clip"))
    height, width = _length(video.get("height")), _length(video.get("width"))
    return ClipEntry(name, tuple(str(f) for f in frames), expressions, height, width, tuple(problems))


def _parse_expression(eid: str, body: Any, keys: Keys) -> Expression:
    text = body[keys.text]
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"found {text!r}")
    ids = body.get(keys.anno_ids) or []
    ids = ids if isinstance(ids, list) else [ids]
    type_id = body.get(keys.type_id)
    return Expression(
        id=eid,
        text=text,
        anno_ids=tuple(str(i) for i in ids),
        type_id=None if type_id is None else int(type_id),
        kind=str(body.get(keys.kind, "")),
    )


def _length(value: Any) -> int | None:
    return int(value) if isinstance(value, (int, float)) and value > 0 else None


@annotation_format("folder")
def parse_folder(root: Path, stanza: Stanza, files: SplitFiles) -> dict[str, ClipEntry]:
    """Clips are the folders on disk; frames are their images in name order, with their suffix."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; data set {stanza.name} wants one folder of frames a clip")
    path = root / files.annotations if files.annotations else None
    texts = read_json(path) if path is not None and path.is_file() else {}
    if not isinstance(texts, dict):
        raise DataError(f"{path}: must map clip names to lists of expressions")
    index: dict[str, ClipEntry] = {}
    for folder in _clip_folders(root, files):
        body = texts.pop(folder.name, {})
        items = body.items() if isinstance(body, dict) else enumerate(body)
        # An expression that names no annotation means whatever the clip's masks cover.
        rich = {str(i): {"anno_id": ["any"], **(b if isinstance(b, dict) else {"exp": b})} for i, b in items}
        frames = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        entry = _parse_video(path or folder, folder.name, {"frames": frames, "expressions": rich}, Keys())
        kept = tuple(p for p in entry.problems if p.code != "no_expressions")
        index[folder.name] = ClipEntry(entry.name, entry.frames, entry.expressions, problems=kept)
    if texts:
        raise DataError(f"{path}: clip {next(iter(texts))!r} has expressions but no folder of frames under {root}")
    return index


def _clip_folders(root: Path, files: SplitFiles) -> Iterator[Path]:
    for pattern in files.frames:
        parent = root / pattern.split("{clip}")[0]
        folders = sorted(p for p in parent.iterdir() if p.is_dir()) if parent.is_dir() else []
        if folders:
            yield from (f for f in folders if f.name != files.masks)
            return
