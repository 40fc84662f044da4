"""Image data sets as clips of one frame: RefCOCO/+/g and ReasonSeg."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from pathlib import Path
from typing import Any

from data_construction.problems import Problem
from data_construction.readers.annotations import ClipEntry, Index, LazyIndex, annotation_format, annotation_path
from data_construction.readers.listing import in_order, listed
from data_construction.readers.pickles import read_pickle
from data_construction.readers.stanza import SplitFiles, Stanza
from rollout.errors import DataError
from rollout.text_files import encoding_of
from rollout.types import Expression

TARGET = "target"
"""ReasonSeg has one mask an image; this is its annotation id."""


@annotation_format("refer")
def parse_refer(root: Path, stanza: Stanza, files: SplitFiles) -> Index:
    """``refs(<owner>).p``: a list of {ref_id, ann_id, image_id, split, sentences: [{sent_id, sent}]}.

    Clips are the images of COCO train2014; every sentence is an expression on one instance.
    """
    path = annotation_path(root, stanza, files)
    refs = read_pickle(path)
    if not isinstance(refs, list):
        raise DataError(f"{path}: must hold a list of references, found {type(refs).__name__}")
    clips: dict[str, list[tuple[int, Any]]] = {}
    problems: list[Problem] = []
    for n, ref in enumerate(refs):
        try:
            if ref["split"] == files.select:
                clips.setdefault(f"COCO_train2014_{int(ref['image_id']):012d}", []).append((n, ref))
        except (KeyError, TypeError, ValueError) as e:
            what = f"is not a reference ({type(e).__name__}: {e})"
            problems.append(Problem("malformed_record", str(path), what, item=f"item {n}"))
    index = {name: _refer_image(path, name, items) for name, items in clips.items()}
    if problems:
        index["?"] = ClipEntry("?", (), {}, problems=tuple(problems))
    return index


def _refer_image(path: Path, name: str, items: list[tuple[int, Any]]) -> ClipEntry:
    expressions: dict[str, Expression] = {}
    problems: list[Problem] = []
    for n, ref in items:
        try:
            sentences = ref["sentences"]
            for sentence in sentences:
                eid, text = str(sentence["sent_id"]), str(sentence["sent"])
                if not text.strip():
                    raise ValueError(f"sentence {eid} is empty")
                if eid in expressions:
                    raise ValueError(f"sentence id {eid} is there twice")
                expressions[eid] = Expression(eid, text, (str(ref["ann_id"]),))
            if not sentences:
                raise ValueError("has no sentences")
        except (KeyError, TypeError, ValueError) as e:
            what = f"cannot be read ({type(e).__name__}: {e})"
            problems.append(Problem("malformed_expression", str(path), what, name, item=f"item {n}"))
    return ClipEntry(name, (name,), expressions, problems=tuple(problems))


@annotation_format("reasonseg")
def parse_reasonseg(root: Path, stanza: Stanza, files: SplitFiles) -> Index:
    """A folder of ``<name>.jpg`` beside ``<name>.json`` with ``text``, ``is_sentence`` and polygons in ``shapes``."""
    folder = annotation_path(root, stanza, files)
    if not folder.is_dir():
        raise DataError(f"{folder}: missing; check the data set's root folder and split")
    names = in_order({p.stem for p in listed(folder) if p.suffix in (".json", ".jpg")})
    return LazyIndex(names, lambda name: _reasonseg_image(folder / f"{name}.json", name), folder)


def read_reasonseg(path: Path, name: str) -> dict[str, Any]:
    """One image's annotation, in UTF-8 or, as some of the released are, in cp1252. Raises DataError."""
    try:
        data = path.read_bytes()
        raw = json.loads(_decoded(data))
    except OSError as e:
        raise Problem("no_annotation", str(path), "does not exist", name, remedy="get it, or remove it").error() from e
    except ValueError as e:
        raise Problem("malformed_clip", str(path), f"cannot be read as JSON ({e})", name).error() from e
    if not isinstance(raw, dict) or not isinstance(raw.get("shapes"), list):
        raise Problem("malformed_clip", str(path), "has no list of 'shapes'", name).error()
    return raw


def _decoded(data: bytes) -> str:
    try:
        return data.decode(encoding_of(data[:2]))
    except UnicodeDecodeError:
        return data.removeprefix(BOM_UTF8).decode("cp1252")


def _reasonseg_image(path: Path, name: str) -> ClipEntry:
    raw = read_reasonseg(path, name)
    texts = raw.get("text")
    texts = [texts] if isinstance(texts, str) else texts if isinstance(texts, list) else []
    kind = "long" if raw.get("is_sentence") else "short"
    problems: tuple[Problem, ...] = ()
    if not texts:
        problems = (Problem("no_expressions", str(path), "has no 'text'", name, remedy="remove the image"),)
    elif any(not isinstance(t, str) or not t.strip() for t in texts):
        problems = (Problem("malformed_expression", str(path), f"'text' is {texts!r}", name),)
    expressions = {str(n): Expression(str(n), str(t), (TARGET,), kind=kind) for n, t in enumerate(texts)}
    return ClipEntry(name, (name,), expressions, problems=problems)
