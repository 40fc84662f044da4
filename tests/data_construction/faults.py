"""Ways to break a data set's folder, each returning (split, code, words that must name it); code "" = cannot open."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Found = tuple[str, ...]
"""(code, *words)."""
Fault = Callable[[Path], Found]


@dataclass(frozen=True)
class Broken:
    """One way to break one split of a data set; ``clip`` is the only clip that may be reported."""

    dataset: str
    split: str
    clip: str
    name: str
    fault: Fault

    def __str__(self) -> str:
        return f"{self.dataset}-{self.name}"


def edit(path: Path, how: Callable[[Any], object]) -> None:
    """Change a JSON file in place."""
    value = json.loads(path.read_text())
    how(value)
    path.write_text(json.dumps(value))


def json_fault(file: str, how: Callable[[Any], object], *found: str) -> Fault:
    """Change a JSON file; the problem must name the file too, unless ``found`` says what else."""

    def fault(root: Path) -> Found:
        edit(root / file, how)
        return found

    return fault


def missing(file: str, *found: str) -> Fault:
    """Take a file or folder away."""

    def fault(root: Path) -> Found:
        path = root / file
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        return found

    return fault


def cut(file: str, *found: str) -> Fault:
    """Keep the first half of a file."""

    def fault(root: Path) -> Found:
        data = (root / file).read_bytes()
        (root / file).write_bytes(data[: len(data) // 2])
        return found

    return fault


def garbage(file: str, *found: str) -> Fault:
    """Replace a file by bytes that mean nothing."""

    def fault(root: Path) -> Found:
        (root / file).write_bytes(b"\x00not at all what it should be" * 20)
        return found

    return fault


def picture(file: str, image: Callable[[], Image.Image], *found: str) -> Fault:
    """Replace (or add) an image."""

    def fault(root: Path) -> Found:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        image().save(root / file)
        return found

    return fault


def frame_faults(frame: str, clip: str, name: str) -> dict[str, Fault]:
    """What can happen to a frame that is an image."""
    where = (frame, f"clip {clip}", f"frame {name}")
    return {
        "missing_frame": missing(frame, "missing_frame", *where),
        "cut_frame": cut(frame, "unreadable_frame", *where),
        "small_frame": picture(frame, lambda: Image.new("RGB", (30, 48)), "frame_size", *where, "48 x 30", "48 x 64"),
        "no_image": garbage(frame, "unreadable_frame", *where),
    }


def rle_faults(
    file: str, anno_id: str, clip: str, frames: list[str], at: Callable[[Any], Any] = lambda m: m
) -> dict[str, Fault]:
    """What can happen to the RLE list of an annotation id; ``at`` finds the mapping of ids in the file."""
    where = (file, f"clip {clip}", f"annotation {anno_id}")

    def seen(masks: Any) -> int:
        return next(t for t, r in enumerate(masks[anno_id]) if r)

    def on_first_mask(how: Callable[[Any], object], *found: str) -> Fault:
        def fault(root: Path) -> Found:
            t = seen(at(json.loads((root / file).read_text())))
            edit(root / file, lambda m: how(at(m)[anno_id][t]))
            return (*found, *where, f"frame {frames[t]}")

        return fault

    return {
        "mask_of_other_size": on_first_mask(lambda r: r.update(size=[64, 48]), "mask_size", "(64, 48)", "(48, 64)"),
        "damaged_runs": on_first_mask(lambda r: r.update(counts=r["counts"][:-2]), "mask_runs"),
        "short_mask_list": json_fault(
            file, lambda m: at(m)[anno_id].pop(), "mask_count", *where, f"{len(frames) - 1} entries for {len(frames)}"
        ),
        "no_masks_of_an_id": json_fault(file, lambda m: at(m).pop(anno_id), "no_masks", *where),
        "never_visible": json_fault(
            file, lambda m: at(m).update({anno_id: [None] * len(frames)}), "never_visible", *where
        ),
    }


def png_faults(file: str, clip: str, frame: str, every_frame: bool, one_object: bool = False) -> dict[str, Fault]:
    """What can happen to a PNG mask."""
    where = (file, f"clip {clip}", f"frame {frame}")
    faults = {
        "cut_mask": cut(file, "unreadable_mask", *where),
        "rgb_mask": picture(
            file, lambda: Image.new("RGB", (64, 48), (200, 10, 30)), "unreadable_mask", *where, "save grey or palette"
        ),
        "mask_of_other_size": picture(
            file, lambda: Image.fromarray(np.ones((64, 48), np.uint8)), "mask_size", f"clip {clip}", f"frame {frame}"
        ),
        "stray_mask": picture(
            str(Path(file).with_name("99999.png")), lambda: Image.new("L", (64, 48)), "stray_mask", "99999.png", clip
        ),
    }
    if one_object:  # May be in colour.
        del faults["rgb_mask"]
    if every_frame:
        faults["missing_mask"] = missing(file, "missing_mask", *where)
    return faults


def meta_faults(
    file: str, clip: str, eid: Any, text: str, ids: str | None, unknown: Found, expressions: str = "expressions"
) -> dict[str, Fault]:
    """What can happen to a clip in ``meta_expressions.json``; ``unknown``: what an unknown object id leads to."""
    where = (file, f"clip {clip}")

    def on_clip(how: Callable[[Any], object], *found: str) -> Fault:
        return json_fault(file, lambda m: how(m["videos"][clip]), found[0], *where, *found[1:])

    def empty(video: Any) -> None:
        video[expressions] = type(video[expressions])()

    faults = {
        "no_text": on_clip(lambda v: v[expressions][eid].pop(text), "malformed_expression", text),
        "blank_text": on_clip(lambda v: v[expressions][eid].update({text: " "}), "malformed_expression"),
        "expression_is_a_number": on_clip(lambda v: v[expressions].__setitem__(eid, 7), "malformed_expression"),
        "no_expressions": on_clip(empty, "no_expressions"),
        "clip_is_a_list": json_fault(file, lambda m: m["videos"].update({clip: []}), "malformed_clip", *where),
        "annotations_cut": cut(file, "", file, "cut short"),
        "annotations_missing": missing(file, "", file, "missing"),
        "no_videos": json_fault(file, lambda m: m.pop("videos"), "", file, "'videos'"),
    }
    if expressions == "expressions":
        faults["no_frames"] = on_clip(lambda v: v.pop("frames"), "no_frames", "without frames")
        faults["frame_twice"] = on_clip(
            lambda v: v["frames"].__setitem__(3, v["frames"][2]), "duplicate_frame", "listed twice"
        )
    if ids is not None:
        faults["unknown_object"] = json_fault(
            file, lambda m: m["videos"][clip][expressions][eid].update({ids: "77"}), *unknown
        )
    return faults
