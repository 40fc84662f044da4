"""A synthetic clip as it goes to disk; many are made in several processes, as each depends on its number alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_construction.processes import in_order
from data_construction.synthetic.expressions import Candidate
from data_construction.synthetic.worlds import get_world
from rollout.errors import DataError
from rollout.types import RLE

JPEG_QUALITY = 95


@dataclass(frozen=True)
class PreparedClip:
    """Encoded: frames as JPEG, masks as RLE."""

    name: str
    size: int
    frames: tuple[bytes, ...]
    masks: list[list[RLE | None]]
    """By object and frame; None where it is not visible."""
    foreground: list[RLE | None]
    """By frame, all objects together, empty ones included."""
    objects: list[dict[str, Any]]
    expressions: tuple[Candidate, ...]


def prepared_clips(
    total: int, world: str, seed: int, split: str, frames: tuple[int, int], size: int, wanted: Mapping[str, float]
) -> Iterator[PreparedClip]:
    """Clips 0..``total`` - 1 of a split, in order."""
    make = partial(prepare_clip, world, seed, split, frames, size, dict(wanted))
    yield from in_order(make, range(total))


def prepare_clip(
    world: str,
    seed: int,
    split: str,
    frames: tuple[int, int],
    size: int,
    wanted: Mapping[str, float],
    number: int,
) -> PreparedClip:
    """Draw and encode one clip."""
    clip = get_world(world).draw(seed, split, number, frames, size, wanted)
    masks = clip.scene.masks
    return PreparedClip(
        clip.name,
        clip.scene.size,
        tuple(_jpeg(frame, f"{clip.name}, frame {t}") for t, frame in enumerate(clip.frames)),
        [encode_masks(m) for m in masks],
        encode_masks(np.asarray(masks.any(0)), keep_empty=True),
        [obj.describe() for obj in clip.scene.objects],
        clip.expressions,
    )


def _jpeg(frame: NDArray[np.uint8], where: str) -> bytes:
    import cv2

    done, jpeg = cv2.imencode(".jpg", frame[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise DataError(f"{where}: OpenCV could not encode the frame as JPEG")
    return bytes(jpeg.tobytes())


def encode_masks(masks: NDArray[np.bool_], keep_empty: bool = False) -> list[RLE | None]:
    """(T, H, W) to one COCO RLE a frame with text counts; None where empty, unless ``keep_empty``."""
    from pycocotools import mask as coco_mask

    packed = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
    return [
        {"size": list(rle["size"]), "counts": rle["counts"].decode()} if keep_empty or mask.any() else None
        for rle, mask in zip(packed, masks, strict=True)
    ]
