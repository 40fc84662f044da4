"""Layouts of ReVOS, MeViS, Refer-YouTube-VOS, Ref-DAVIS17, Long-RVOS, ReasonVOS."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from data_construction.layouts.clips import DrawnClip, text_rle
from data_construction.layouts.registry import Clips, layout
from data_construction.layouts.writing import (
    frame_names,
    one_object,
    write_frames,
    write_grey,
    write_json,
    write_palette,
)
from rollout.types import RLE

LONG_RVOS_TYPES = ("static", "dynamic", "static+dynamic")
MEVIS_FILES = {"test": "meta_expressions_release.json"}
MEVIS_V2_FILES = dict.fromkeys(("train", "valid_u"), "meta_expressions_v2.json") | {
    "valid": "meta_expressions_v2_release.json"
}
REASONVOS_SOURCES = ("VIPSeg", "BURST", "MOSE", "MeViS")


@layout("revos")
def write_revos(root: Path, clips: Clips) -> None:
    """meta_expressions_<split>_.json, mask_dict.json, mask_dict_foreground.json, JPEGImages."""
    masks: dict[str, list[RLE | None]] = {}
    foreground: dict[str, Any] = {}
    for split, drawn in clips.items():
        videos: dict[str, Any] = {}
        for clip in drawn:
            names, ids = frame_names(clip), _add(masks, clip)
            write_frames(root / "JPEGImages" / clip.name, clip, names)
            everything = tuple(range(len(clip.masks)))
            rles = [text_rle(clip.union(everything, t)) for t in range(clip.num_frames)]
            foreground[clip.name] = {"masks_rle": rles}
            expressions = {
                str(n): {
                    "exp": e.text,
                    "obj_id": list(e.targets),
                    "anno_id": [ids[k] for k in e.targets],
                    "type_id": e.type_id,
                }
                for n, e in enumerate(clip.expressions)
            }
            height, width = clip.frames.shape[1:3]
            video = {"vid_id": clip.number, "frames": names, "height": height, "width": width}
            videos[clip.name] = {**video, "expressions": expressions}
        write_json(root / f"meta_expressions_{split}_.json", {"videos": videos})
    write_json(root / "mask_dict.json", masks)
    write_json(root / "mask_dict_foreground.json", foreground)


@layout("mevis")
def write_mevis(root: Path, clips: Clips) -> None:
    """A folder a split; valid and test come without masks and ids."""
    _write_mevis(root, clips, MEVIS_FILES)


@layout("mevis_v2")
def write_mevis_v2(root: Path, clips: Clips) -> None:
    """The same folders; sentences without a target have empty lists of ids."""
    _write_mevis(root, clips, MEVIS_V2_FILES)


def _write_mevis(root: Path, clips: Clips, files: dict[str, str]) -> None:
    for split, drawn in clips.items():
        public = split in ("train", "valid_u")
        masks: dict[str, list[RLE | None]] = {}
        videos: dict[str, Any] = {}
        for clip in drawn:
            names, ids = frame_names(clip), _add(masks, clip)
            write_frames(root / split / "JPEGImages" / clip.name, clip, names)
            expressions: dict[str, Any] = {}
            for n, e in enumerate(clip.expressions):
                known = {"obj_id": list(e.targets), "anno_id": [ids[k] for k in e.targets]} if public else {}
                expressions[str(n)] = {"exp": e.text, **known}
            videos[clip.name] = {"expressions": expressions, "vid_id": clip.number, "frames": names}
        write_json(root / split / files.get(split, "meta_expressions.json"), {"videos": videos})
        if public:
            write_json(root / split / "mask_dict.json", masks)


@layout("ref_ytvos")
def write_ref_ytvos(root: Path, clips: Clips) -> None:
    """Palette PNGs in train only; the valid file lists the test clips too, as the published one does."""
    metas: dict[str, dict[str, Any]] = {}
    for split, drawn in clips.items():
        metas[split] = {}
        for clip in drawn:
            names = frame_names(clip, step=5)
            write_frames(root / split / "JPEGImages" / clip.name, clip, names)
            expressions: dict[str, Any] = {}
            for text, k in one_object(clip):
                for how in ("", " in the clip"):
                    known = {"obj_id": str(k + 1)} if split == "train" else {}
                    expressions[str(len(expressions))] = {"exp": text + how, **known}
            metas[split][clip.name] = {"expressions": expressions, "frames": names}
            if split == "train":
                for t, name in enumerate(names):
                    write_palette(root / "train/Annotations" / clip.name / f"{name}.png", clip.masks[:, t])
    metas["valid"] = {**metas["valid"], **metas["test"]}
    for split, videos in metas.items():
        write_json(root / "meta_expressions" / split / "meta_expressions.json", {"videos": videos})


@layout("ref_davis17")
def write_ref_davis17(root: Path, clips: Clips) -> None:
    """Four expressions an object in a row; beside valid's PNGs the same masks as Sa2VA's mask_dict.pkl."""
    for split, drawn in clips.items():
        videos: dict[str, Any] = {}
        for clip in drawn:
            names = frame_names(clip)
            write_frames(root / split / "JPEGImages" / clip.name, clip, names)
            for t, name in enumerate(names):
                write_palette(root / split / "Annotations" / clip.name / f"{name}.png", clip.masks[:, t])
            asked = [
                {"exp": f"{text} ({how})", "obj_id": str(k + 1)}
                for text, k in one_object(clip)
                for how in ("first 1", "full 1", "first 2", "full 2")
            ]
            videos[clip.name] = {"expressions": {str(n): e for n, e in enumerate(asked)}, "frames": names}
        write_json(root / "meta_expressions" / split / "meta_expressions.json", {"videos": videos})
        if split == "valid":
            _write_pickle(root / "valid/mask_dict.pkl", videos, {c.name: c for c in drawn})


def _write_pickle(path: Path, videos: dict[str, Any], clips: dict[str, DrawnClip]) -> None:
    """Masks numbered by expression, clips and ids sorted as text."""
    masks: dict[str, list[RLE | None]] = {}
    for name in sorted(videos):
        expressions = videos[name]["expressions"]
        for eid in sorted(expressions):
            masks[str(len(masks))] = clips[name].rles(int(expressions[eid]["obj_id"]) - 1)
    path.write_bytes(pickle.dumps(masks))


@layout("long_rvos")
def write_long_rvos(root: Path, clips: Clips) -> None:
    """One folder of grey PNGs an object, only of frames where it is visible; the three types in turn."""
    for split, drawn in clips.items():
        videos: dict[str, Any] = {}
        for clip in drawn:
            names = frame_names(clip)
            write_frames(root / split / "JPEGImages" / clip.name, clip, names)
            expressions: dict[str, Any] = {}
            for text, k in one_object(clip):
                kind = LONG_RVOS_TYPES[(clip.number + k) % 3]
                expressions[str(k)] = {"exp": text, "obj_id": str(k + 1), "type": kind}
                for t in clip.masks[k].any((1, 2)).nonzero()[0]:
                    file = root / split / "Annotations" / clip.name / str(k + 1) / f"{names[t]}.png"
                    write_grey(file, clip.masks[k, t])
            videos[clip.name] = {"expressions": expressions, "frames": names}
        write_json(root / split / "meta_expressions.json", {"videos": videos})


@layout("reasonvos")
def write_reasonvos(root: Path, clips: Clips) -> None:
    """A list of expressions a clip, whose ids repeat from object to object; a PNG a frame even where it is empty."""
    videos: dict[str, Any] = {}
    for clip in clips["test"]:
        names, source = frame_names(clip), REASONVOS_SOURCES[clip.number % 4]
        write_frames(root / "JPEGImages" / clip.name, clip, names)
        asked: list[dict[str, Any]] = []
        for text, k in one_object(clip):
            for n, ask in enumerate((f"Which one is {text}?", f"{text} is what?")):
                asked.append({"obj_id": k + 1, "exp_id": n, "exp_text": ask, "is_sent": 1})
            for t, name in enumerate(names):
                write_grey(root / "Annotations" / f"{source}_{clip.name}_{k + 1}" / f"{name}.png", clip.masks[k, t])
        videos[clip.name] = {"source": source, "frames": names, "expressions": asked}
    write_json(root / "meta_expressions.json", {"videos": videos})


def _add(masks: dict[str, list[RLE | None]], clip: DrawnClip) -> list[int]:
    """Number the clip's objects on from those before."""
    first = len(masks)
    for k in range(len(clip.masks)):
        masks[str(first + k)] = clip.rles(k)
    return list(range(first, len(masks)))
