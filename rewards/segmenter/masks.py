"""Mask logits to masks at the clip's size, their RLE, and IoU.

Shape legend: N masks, h x w logits, H x W pixels of the clip.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rollout.types import RLE

RESIZE_PIXELS = 32_000_000
"""Logits are resized in groups of about so many pixels (128 MB in float32), however many masks are asked for."""


def mask_to_clip_size(logits: Tensor, height: int, width: int) -> Tensor:
    """(N, h, w) logits -> (N, H, W) bool on the same device: resized bilinearly, then above 0 (SPEC 2.2)."""
    if logits.shape[0] == 0:
        return logits.new_zeros((0, height, width)).bool()
    size = (height, width)
    parts = [
        F.interpolate(part[:, None].float(), size=size, mode="bilinear", align_corners=False)[:, 0] > 0
        for part in logits.split(max(1, RESIZE_PIXELS // (height * width)))
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def mask_iou(predicted: Tensor, truth: Tensor) -> Tensor:
    """(N,) float64 IoU of (N, H, W) bool pairs; an empty union counts 1 (SPEC 2.5)."""
    inter = (predicted & truth).flatten(1).sum(1).double()
    union = (predicted | truth).flatten(1).sum(1).double()
    return (inter / union.clamp(min=1)).masked_fill(union == 0, 1.0)


def by_columns(masks: Tensor) -> Tensor:
    """(N, H, W) bool -> (N, W, H) uint8 on the same device: the order of COCO's RLEs, cheaper to make on a GPU."""
    return masks.transpose(1, 2).to(torch.uint8, memory_format=torch.contiguous_format)


def encode_columns(columns: Tensor) -> list[RLE]:
    """(N, W, H) uint8 on the CPU, see `by_columns` -> N COCO RLEs whose counts are str, ready for JSON."""
    from pycocotools import mask as coco_mask

    if columns.shape[0] == 0:
        return []
    # pycocotools reads column-major H x W x N, which is row-major N x W x H
    rles = coco_mask.encode(columns.contiguous().numpy().transpose(2, 1, 0))
    return [{"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")} for rle in rles]


def encode_rles(masks: NDArray[np.bool_] | Tensor) -> list[RLE]:
    """(N, H, W) bool -> N COCO RLEs whose counts are str, ready for JSON."""
    if isinstance(masks, Tensor):
        return encode_columns(by_columns(masks).cpu())
    return encode_columns(torch.from_numpy(masks.transpose(0, 2, 1).astype(np.uint8, order="C")))
