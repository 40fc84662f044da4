"""What is drawn for a layout, before any file format: frames, masks and expressions of each clip."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_construction.synthetic.clip import make_clip
from rollout.errors import DataError
from rollout.types import RLE

HEIGHT, WIDTH = 48, 64
"""Of every frame, in pixels: not square, so that a reader that swaps them fails."""
FRAMES = (12, 13)
KINDS = {"attribute": 2.0, "count": 1.0, "comparison": 1.0}
NO_TARGET = {"no_target": 1.0}
WITHOUT_TARGET = ("revos", "mevis_v2", "rl_annotations", "vts_cot")
"""Data sets that have sentences without a target."""
SPLITS: dict[str, tuple[str, ...]] = {
    "revos": ("train", "valid"),
    "mevis": ("train", "valid_u", "valid", "test"),
    "mevis_v2": ("train", "valid_u", "valid"),
    "ref_ytvos": ("train", "valid", "test"),
    "ref_davis17": ("train", "valid"),
    "ref_sav": ("train", "valid"),
    "long_rvos": ("train", "valid", "test"),
    "reasonvos": ("test",),
    "groundmore": ("test", "train"),
    "vicas": ("train", "val", "test"),
    "refcoco": ("train", "val", "testA", "testB"),
    "refcoco_plus": ("train", "val", "testA", "testB"),
    "refcocog": ("train", "val", "test"),
    "reasonseg": ("train", "val", "test"),
    "gcg": ("grandf", "refcocog", "flickr", "openpsg"),
    "chatunivi": ("train",),
    "timelens": ("train",),
    "vts_cot": ("revos", "mevis", "longrvos"),
    "rl_annotations": ("revos", "mevis"),
    "generic": ("all",),
}


@dataclass(frozen=True)
class DrawnExpression:
    """A text, the objects it means, and the synthetic data set's own kind and ReVOS type of it."""

    text: str
    targets: tuple[int, ...]
    type_id: int
    kind: str


@dataclass(frozen=True)
class DrawnClip:
    """frames (T, H, W, 3) uint8; masks (K, T, H, W) bool; ``name`` as in the data set, ``number`` within the split."""

    name: str
    number: int
    split: str
    frames: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    expressions: tuple[DrawnExpression, ...]

    @property
    def num_frames(self) -> int:
        return len(self.frames)

    def union(self, targets: tuple[int, ...], frame: int) -> NDArray[np.bool_]:
        """(H, W) bool: what an expression on ``targets`` means in a frame."""
        return np.asarray(self.masks[list(targets), frame].any(0))

    def rles(self, k: int) -> list[RLE | None]:
        """Object k in each frame as COCO RLE with text counts; None where it is not visible."""
        return [text_rle(mask) if mask.any() else None for mask in self.masks[k]]


def draw_clips(dataset: str, split: str, *, seed: int = 0, clips: int = 3) -> list[DrawnClip]:
    """The clips that ``write_layout`` writes into a split. Raises DataError for unknown names."""
    if split not in SPLITS.get(dataset, ()):
        raise DataError(f"no layout {dataset}/{split}; {dataset} has {', '.join(SPLITS.get(dataset, ()))}")
    return [_draw(dataset, split, seed, number) for number in range(clips)]


def text_rle(mask: NDArray[np.bool_]) -> RLE:
    """One (H, W) mask as COCO RLE with text counts."""
    from pycocotools import mask as coco_mask

    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode()}


def _draw(dataset: str, split: str, seed: int, number: int) -> DrawnClip:
    kinds = {**KINDS, **(NO_TARGET if dataset in WITHOUT_TARGET else {})}
    stream = zlib.crc32(f"{dataset}/{split}/{seed}".encode())
    clip = make_clip(stream, split, number, FRAMES, HEIGHT, kinds)
    side = ((0, 0), (0, 0), (0, WIDTH - HEIGHT))
    frames = np.pad(clip.frames, (*side, (0, 0)), mode="edge")
    masks = np.pad(clip.scene.masks, ((0, 0), *side))
    expressions = tuple(DrawnExpression(e.text, e.targets, e.type_id, e.kind) for e in clip.expressions)
    return DrawnClip(_name(dataset, split, number), number, split, frames, masks, expressions)


def _name(dataset: str, split: str, number: int) -> str:
    """A clip's name as the data set makes them."""
    place = SPLITS[dataset].index(split) * 1000 + number
    if dataset == "ref_sav":
        return f"sav_{place:06d}"
    if dataset == "vicas":
        return f"{place:06d}"
    if dataset == "groundmore":
        return f"film{place}_0100_0102"
    if dataset.startswith("refcoco"):
        return f"COCO_train2014_{place + 1:012d}"
    if dataset == "gcg":
        return f"{split}_{place:05d}.jpg"
    if dataset in ("chatunivi", "timelens"):
        return f"v_{place:05d}.mp4"
    return f"{split}_{place:05d}"
