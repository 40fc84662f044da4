"""GCG (GLaMM's grounded captions): every grounded phrase of a caption is an expression with its mask.

The caption itself, with ``<p> phrase </p> [SEG]`` marks, is the dialogue of each of its expressions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_construction.problems import Problem
from data_construction.readers.annotations import ClipEntry, Dialogue, Index, annotation_format, annotation_path
from data_construction.readers.files import read_json
from data_construction.readers.stanza import SplitFiles, Stanza
from rollout.errors import DataError
from rollout.types import Expression

QUESTION = "Describe the image and mark each object that you mention with its mask."


@dataclass(frozen=True)
class Phrase:
    """Part ``[start, end)`` of a caption and what COCO's tools make a mask of: RLE or polygons."""

    start: int
    end: int
    text: str
    mask: Any


@annotation_format("gcg")
def parse_gcg(root: Path, stanza: Stanza, files: SplitFiles) -> Index:
    """GranD-f and OpenPSG: ``[{file_name, caption, groundings: {phrase: {token_positives, rle_masks}}}]``."""
    return _images(annotation_path(root, stanza, files), "file_name", _plain, lambda raw: raw)


@annotation_format("gcg_refcocog")
def parse_gcg_refcocog(root: Path, stanza: Stanza, files: SplitFiles) -> Index:
    """RefCOCOg: ``[{id: {img_file_name, caption, refs: [{sentence, segmentation}]}}]``."""
    return _images(annotation_path(root, stanza, files), "img_file_name", _refcocog, _first_value)


@annotation_format("gcg_flickr")
def parse_gcg_flickr(root: Path, stanza: Stanza, files: SplitFiles) -> Index:
    """Flickr30k: COCO's own form, with caption in images, ``sam_mask`` and ``tokens_positive`` in annotations."""
    path = annotation_path(root, stanza, files)
    raw = read_json(path)
    if not isinstance(raw, dict) or not isinstance(raw.get("images"), list):
        raise DataError(f"{path}: no list under 'images'; is this the data set's annotation file?")
    by_image: dict[Any, list[Any]] = {}
    for annotation in raw.get("annotations", []):
        if not annotation.get("ignore", False):
            by_image.setdefault(annotation.get("image_id"), []).append(annotation)
    items = [{**image, "annotations": by_image.get(image.get("id"), [])} for image in raw["images"]]
    return dict(_entries(path, items, "file_name", _flickr))


def _images(path: Path, name_key: str, phrases: Any, unwrap: Any) -> Index:
    raw = read_json(path)
    if not isinstance(raw, list):
        raise DataError(f"{path}: must be a list of images, found {type(raw).__name__}")
    return dict(_entries(path, (unwrap(item) for item in raw), name_key, phrases))


def _first_value(item: Any) -> Any:
    return next(iter(item.values()), {}) if isinstance(item, dict) else item


def _entries(path: Path, items: Iterable[Any], name_key: str, phrases: Any) -> Iterator[tuple[str, ClipEntry]]:
    seen: set[str] = set()
    for n, item in enumerate(items):
        name = f"item {n}"
        try:
            name = str(item[name_key])
            if name in seen:
                name = f"{name}@{n}"  # One image may have several captions.
            seen.add(name)
            yield name, _entry(path, name, str(item[name_key]), str(item["caption"]).strip('"').strip(), phrases(item))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as e:
            what = f"is not a GCG image ({type(e).__name__}: {e})"
            problem = Problem("malformed_record", str(path), what, name, item=f"item {n}")
            yield name, ClipEntry(name, (), {}, problems=(problem,))


def _entry(path: Path, name: str, frame: str, caption: str, found: list[Phrase]) -> ClipEntry:
    ordered = sorted(found, key=lambda p: p.start)
    ids = [str(n) for n in range(len(ordered))]
    problems: list[Problem] = []
    for n, phrase in zip(ids, ordered, strict=True):
        if not 0 <= phrase.start < phrase.end <= len(caption) or not phrase.text.strip():
            what = f"phrase {phrase.text!r} at {phrase.start}..{phrase.end} is not in the caption"
            problems.append(Problem("malformed_expression", str(path), what, name, item=f"expression {n}"))
    if not ordered:
        problems.append(Problem("no_expressions", str(path), "has no grounded phrases", name, remedy="remove it"))
    dialogue: Dialogue = (("human", QUESTION), ("gpt", _marked(caption, ordered)))
    wrong = {p.item.removeprefix("expression ") for p in problems}
    return ClipEntry(
        name,
        (frame,),
        {n: Expression(n, p.text, (n,), kind="phrase") for n, p in zip(ids, ordered, strict=True) if n not in wrong},
        problems=tuple(problems),
        masks={n: [p.mask] for n, p in zip(ids, ordered, strict=True)},
        dialogues=dict.fromkeys(ids, dialogue),
    )


def _marked(caption: str, ordered: list[Phrase]) -> str:
    for p in reversed(ordered):
        caption = f"{caption[: p.start]}<p> {caption[p.start : p.end]} </p> [SEG]{caption[p.end :]}"
    return caption


def _plain(item: Any) -> list[Phrase]:
    out = []
    for text, grounding in item["groundings"].items():
        start, end = grounding["token_positives"]
        out.append(Phrase(int(start), int(end), str(text), list(grounding["rle_masks"])))
    return out


def _refcocog(item: Any) -> list[Phrase]:
    caption = str(item["caption"]).strip('"').strip().lower()
    out = []
    for ref in item["refs"]:
        text = str(ref["sentence"])
        start = caption.find(text.lower())
        if start >= 0:  # The released loader leaves out what the caption does not say.
            out.append(Phrase(start, start + len(text), text, list(ref["segmentation"])))
    return out


def _flickr(item: Any) -> list[Phrase]:
    caption, out = str(item["caption"]).strip('"').strip(), []
    for annotation in item["annotations"]:
        start, end = annotation["tokens_positive"][0]
        out.append(Phrase(int(start), int(end), caption[start:end], annotation["sam_mask"]))
    return out
