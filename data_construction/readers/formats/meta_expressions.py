"""``meta_expressions.json`` of the referring video data sets (SPEC 2.7), and folders of frames with their own texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_construction.problems import Problem
from data_construction.readers.annotations import ClipEntry, Index, annotation_format, annotation_ids, annotation_path
from data_construction.readers.files import read_json
from data_construction.readers.listing import in_order
from data_construction.readers.stanza import Keys, SplitFiles, Stanza
from rollout.errors import DataError
from rollout.types import Expression


@annotation_format("meta_expressions")
def parse_meta_expressions(root: Path, stanza: Stanza, files: SplitFiles) -> Index:
    """``{"videos": {clip: {"frames", "expressions": {id: {...}} | [...], "height"?, "width"?}}}``."""
    path = annotation_path(root, stanza, files)
    videos = read_videos(path, files.keys)
    if files.without is not None and (root / files.without).is_file():
        others = read_videos(root / files.without, files.keys)
        videos = {name: video for name, video in videos.items() if name not in others}
    index = {str(name): parse_video(path, str(name), video, files) for name, video in videos.items()}
    return _numbered(index, path, videos, files.keys) if files.numbered_masks else index


def read_videos(path: Path, keys: Keys) -> dict[str, Any]:
    """The mapping of clips. Raises DataError with the file if there is none."""
    raw = read_json(path)
    videos = raw.get(keys.videos, raw if not keys.videos else None) if isinstance(raw, dict) else None
    if not isinstance(videos, dict):
        raise DataError(f"{path}: no mapping under {keys.videos!r}; is this the data set's annotation file?")
    return videos


def parse_video(path: Path, name: str, video: Any, files: SplitFiles) -> ClipEntry:
    """One clip's entry; whatever is wrong goes into its problems."""
    keys = files.keys
    if not isinstance(video, dict):
        return ClipEntry(name, (), {}, problems=(Problem("malformed_clip", str(path), "is not a mapping", name),))
    problems: list[Problem] = []
    frames = video.get(keys.frames)
    if not isinstance(frames, list) or not frames:
        remedy = f"list them in {keys.frames!r}"
        problems.append(Problem("no_frames", str(path), "expressions without frames", name, remedy=remedy))
        frames = []
    source = str(video.get(keys.clip_kind, "")) if keys.clip_kind else ""
    expressions: dict[str, Expression] = {}
    given = video.get(keys.expressions)
    if given is not None and not isinstance(given, (dict, list)):
        what = f"{keys.expressions!r} is {given!r}, wants a list or a mapping"
        problems.append(Problem("malformed_expression", str(path), what, name, item="expressions"))
    for eid, body in expression_items(given, keys):
        item = f"expression {eid}"
        if eid in expressions:
            problems.append(Problem("duplicate_id", str(path), "two expressions have this id", name, item=item))
            continue
        try:
            expression = parse_expression(eid, body, files, source)
            _check_legible(expression, len(frames), keys)
            expressions[eid] = expression
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            what = f"cannot be read ({type(e).__name__}: {e})"
            problems.append(Problem("malformed_expression", str(path), what, name, item=item))
    if not expressions and not problems:
        problems.append(Problem("no_expressions", str(path), "has no expressions", name, remedy="remove the clip"))
    height, width = _length(video.get("height")), _length(video.get("width"))
    names = tuple(in_order(str(f) for f in frames))  # Masks are paired with frames in order, however they are listed.
    return ClipEntry(name, names, expressions, height, width, tuple(problems), source)


def expression_items(raw: Any, keys: Keys) -> Iterator[tuple[str, Any]]:
    """(id, body) of a mapping or of a list; ids of a list are ``keys.id``, made unique by the object's id."""
    if isinstance(raw, dict):
        yield from ((str(eid), body) for eid, body in raw.items())
        return
    bodies = raw if isinstance(raw, list) else []
    ids = [str(b[keys.id]) if keys.id and isinstance(b, dict) and keys.id in b else "" for b in bodies]
    for n, (eid, body) in enumerate(zip(ids, bodies, strict=True)):
        if eid and ids.count(eid) > 1 and keys.anno_ids in body:
            eid = f"{body[keys.anno_ids]}_{eid}"
        yield eid or str(n), body


def parse_expression(eid: str, body: Any, files: SplitFiles, clip_kind: str = "") -> Expression:
    """Raises KeyError, TypeError or ValueError where the body is not one."""
    keys = files.keys
    text = body[keys.text]
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{keys.text!r} is {text!r}, wants words")
    type_id = body.get(keys.type_id) if keys.type_id else None
    return Expression(
        id=eid,
        text=text,
        anno_ids=annotation_ids(body.get(keys.anno_ids)),
        type_id=None if type_id is None else int(type_id),
        kind=clip_kind or kind_of(body.get(keys.kind), files),
        legible=tuple(int(t) for t in body.get(keys.legible, ())) if keys.legible else (),
    )


def _check_legible(expression: Expression, frames: int, keys: Keys) -> None:
    outside = [t for t in expression.legible if not 0 <= t < frames]
    if outside:
        raise ValueError(f"{keys.legible!r} names frame {outside[0]}, the clip has 0..{frames - 1}")


def kind_of(value: Any, files: SplitFiles) -> str:
    """The data set's own label, under the name that the stanza gives it. Raises ValueError if it knows none."""
    if value is None:
        return ""
    if files.kind_names and str(value) not in files.kind_names:
        known = ", ".join(f"{k} ({v})" for k, v in files.kind_names.items())
        raise ValueError(f"{files.keys.kind} is {value!r}, wants one of {known}")
    return files.kind_names.get(str(value), str(value))


def _numbered(index: dict[str, ClipEntry], path: Path, videos: Mapping[str, Any], keys: Keys) -> dict[str, ClipEntry]:
    """Annotation ids counted over the file's expressions, clips and ids in text order (Sa2VA's ``mask_dict.pkl``).

    Those that cannot be read count too: they have their masks, and the next ones must not get them. Raises DataError
    where a clip's expressions cannot be counted, as then nobody knows whose the masks after it are.
    """
    number: dict[tuple[str, str], str] = {}
    count = 0
    for clip in sorted(index):
        given = videos[clip].get(keys.expressions) if isinstance(videos[clip], dict) else None
        if not isinstance(given, (dict, list)):
            what = f"its {keys.expressions!r} are no list or mapping, and the masks are numbered by expression"
            remedy = "write them (an empty list where there are none), or use masks that are not numbered"
            raise Problem("malformed_clip", str(path), what, clip, remedy=remedy).error()
        for eid in sorted(eid for eid, _ in expression_items(given, keys)):
            number.setdefault((clip, eid), str(count))
            count += 1
    return {
        name: replace(
            entry,
            expressions={eid: replace(e, anno_ids=(number[name, eid],)) for eid, e in entry.expressions.items()},
        )
        for name, entry in index.items()
    }


def _length(value: Any) -> int | None:
    return int(value) if isinstance(value, (int, float)) and value > 0 else None
