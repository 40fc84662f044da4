"""Layouts of RefCOCO/+/g, ReasonSeg and GCG: each clip's richest frame as an image."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_construction.layouts.clips import DrawnClip, text_rle
from data_construction.layouts.registry import Clips, layout
from data_construction.layouts.writing import one_object, shown_frame, write_jpeg, write_json


@layout("refcoco", "refcoco_plus")
def write_refcoco(root: Path, clips: Clips) -> None:
    """refs(unc).p and instances.json; all splits in one pickle."""
    _refer(root, clips, "unc")


@layout("refcocog")
def write_refcocog(root: Path, clips: Clips) -> None:
    """refs(umd).p and instances.json."""
    _refer(root, clips, "umd")


def _refer(root: Path, clips: Clips, owner: str) -> None:
    refs: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for split, drawn in clips.items():
        for clip in drawn:
            image_id, t = int(clip.name.rpartition("_")[2]), shown_frame(clip)
            height, width = clip.frames.shape[1:3]
            write_jpeg(root / "coco2014/train2014" / f"{clip.name}.jpg", clip.frames[t])
            images.append({"id": image_id, "file_name": f"{clip.name}.jpg", "height": height, "width": width})
            for text, k in visible_objects(clip, t):
                ann_id = len(annotations) + 1
                rows = {"id": ann_id, "image_id": image_id, "category_id": 1, "iscrowd": 0}
                annotations.append({**rows, "segmentation": _coco_form(clip.masks[k, t], ann_id)})
                said = [text, f"the {k + 1}. shape"]
                sentences = [
                    {"sent_id": 2 * ann_id + n, "sent": s, "raw": s, "tokens": s.split()} for n, s in enumerate(said)
                ]
                ref = {"ref_id": ann_id, "ann_id": ann_id, "image_id": image_id, "category_id": 1, "split": split}
                ids = [s["sent_id"] for s in sentences]
                file = f"{clip.name}_{ann_id}.jpg"
                refs.append({**ref, "file_name": file, "sentences": sentences, "sent_ids": ids})
    (root / f"refs({owner}).p").write_bytes(pickle.dumps(refs, protocol=2))
    categories = [{"id": 1, "name": "shape"}]
    write_json(root / "instances.json", {"images": images, "annotations": annotations, "categories": categories})


def _coco_form(mask: NDArray[np.bool_], ann_id: int) -> Any:
    """COCO's two forms in turn: polygons, and uncompressed runs."""
    return polygons(mask) if ann_id % 2 else {"size": list(mask.shape), "counts": plain_runs(mask)}


def polygons(mask: NDArray[np.bool_]) -> list[list[float]]:
    """One rectangle a run of pixels in a column: exact, as COCO's rasteriser takes corners for pixel edges."""
    out: list[list[float]] = []
    for x in range(mask.shape[1]):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], mask[:, x].astype(np.int8), [0]])))
        for top, bottom in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            out.append([float(v) for v in (x, top, x + 1, top, x + 1, bottom, x, bottom)])
    return out


def plain_runs(mask: NDArray[np.bool_]) -> list[int]:
    """COCO's uncompressed counts: column by column, zeros first."""
    flat = mask.ravel(order="F").astype(np.int8)
    changes = np.flatnonzero(np.diff(flat)) + 1
    ends = [*changes.tolist(), len(flat)]
    runs = np.diff([0, *ends]).tolist()
    return [int(r) for r in ([0, *runs] if flat[0] else runs)]


def visible_objects(clip: DrawnClip, t: int) -> list[tuple[str, int]]:
    """(text, object) of those that are to be seen in frame t."""
    return [(text, k) for text, k in one_object(clip) if clip.masks[k, t].any()]


@layout("reasonseg")
def write_reasonseg(root: Path, clips: Clips) -> None:
    """JSON with polygons beside each image; long and short texts in turn, one file in cp1252, one region to ignore."""
    for split, drawn in clips.items():
        for clip in drawn:
            t = shown_frame(clip)
            (first, k), *rest = visible_objects(clip, t)
            shapes = [{"label": "target", "points": box} for box in reasonseg_boxes(clip.masks[k, t])]
            if rest:
                shapes += [{"label": "ignore", "points": box} for box in reasonseg_boxes(clip.masks[rest[0][1], t])]
            texts = [f"which one is {first}?", first] if clip.number % 2 else [f"{first}, not the café's"]
            write_jpeg(root / split / f"{clip.name}.jpg", clip.frames[t])
            content = {"shapes": shapes, "text": texts, "is_sentence": bool(clip.number % 2)}
            body = json.dumps(content, ensure_ascii=False)
            path = root / split / f"{clip.name}.json"
            path.write_bytes(body.encode("utf-8" if clip.number % 2 else "cp1252"))


def reasonseg_boxes(mask: NDArray[np.bool_]) -> list[list[list[int]]]:
    """Upright boxes a row of the mask; drawn with their borders they cover exactly the mask."""
    out: list[list[list[int]]] = []
    for y in range(mask.shape[0]):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], mask[y].astype(np.int8), [0]])))
        for left, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            out.append([[left, y], [end - 1, y], [end - 1, y], [left, y]])
    return out


@layout("gcg")
def write_gcg(root: Path, clips: Clips) -> None:
    """The three forms of annotation that its four sources come in."""
    plain: dict[str, list[dict[str, Any]]] = {"grandf": [], "openpsg": []}
    refcocog: list[dict[str, Any]] = []
    flickr: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
    folders = {"grandf": "grandf/train", "refcocog": "coco2014/train2014", "flickr": "flickr30k/Flickr30K"}
    for split, drawn in clips.items():
        for clip in drawn:
            t = shown_frame(clip)
            write_jpeg(root / "images" / folders.get(split, "coco2017") / clip.name, clip.frames[t])
            caption, spans = gcg_caption(clip, t)
            if split in plain:
                groundings = {
                    caption[a:b]: {"token_positives": [a, b], "rle_masks": [text_rle(clip.masks[k, t])]}
                    for k, (a, b) in spans.items()
                }
                plain[split].append({"file_name": clip.name, "caption": caption, "groundings": groundings})
            elif split == "refcocog":
                refs = [
                    {"sentence": caption[a:b], "segmentation": polygons(clip.masks[k, t])}
                    for k, (a, b) in spans.items()
                ]
                item = {"img_file_name": clip.name, "caption": caption, "refs": refs}
                refcocog.append({str(clip.number): item})
            else:
                height, width = clip.frames.shape[1:3]
                size = {"height": height, "width": width}
                flickr["images"].append({"id": clip.number, "file_name": clip.name, "caption": caption, **size})
                for k, span in spans.items():
                    row = {"id": len(flickr["annotations"]), "image_id": clip.number, "tokens_positive": [list(span)]}
                    flickr["annotations"].append({**row, "sam_mask": text_rle(clip.masks[k, t]), "ignore": False})
    write_json(root / "annotations/GranDf_HA_GCG_train.json", plain["grandf"])
    write_json(root / "annotations/OpenPsgGCG_train.json", plain["openpsg"])
    write_json(root / "annotations/RefCOCOg_GCG_train.json", refcocog)
    write_json(root / "annotations/flickr_mergedGT_GCG_train.json", flickr)


def gcg_caption(clip: DrawnClip, t: int) -> tuple[str, dict[int, tuple[int, int]]]:
    """A caption that names every visible object, and where: {object: (start, end)}."""
    caption, spans = "one sees", {}
    for n, (_, k) in enumerate(visible_objects(clip, t)):
        caption += " and " if n else " "
        phrase = f"shape {'abcd'[k]}"
        spans[k] = (len(caption), len(caption) + len(phrase))
        caption += phrase
    return caption, spans
