"""Ground-truth masks on the segmenter's device, decoded once for all that are scored against them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rewards.segmenter.features import upload
from rewards.segmenter.masks import mask_iou, mask_to_clip_size
from rollout.types import Masklets

SCORING_CHUNK_PIXELS = 64_000_000
"""Masks are resized and compared in groups of about so many pixels."""
REMEMBERED_PIXELS = 256_000_000
"""Unions are forgotten, the least recently used first, beyond so many pixels (a byte each)."""


class Truth:
    """Unions of an expression's objects, remembered per masklets object and frame."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._unions: OrderedDict[tuple[int, int], Tensor] = OrderedDict()
        self._alive: dict[int, Masklets] = {}

    def union(self, masklets: Masklets, frame: int) -> Tensor:
        """(H, W) bool."""
        key = (id(masklets), frame)
        if key in self._unions:
            self._unions.move_to_end(key)
            return self._unions[key]
        self._alive[id(masklets)] = masklets  # an id may be reused once its object is gone
        union = upload(torch.from_numpy(masklets.union(frame)), self._device)
        self._unions[key] = union
        while len(self._unions) * union.numel() > max(REMEMBERED_PIXELS, union.numel()):
            self._unions.popitem(last=False)
        return union

    def score_logits(self, logits: Tensor, targets: Sequence[tuple[Masklets, int]]) -> list[float]:
        """IoU at the clip's size of (N, h, w) logits against N (masklets, frame) of one clip."""
        if not targets:
            return []
        height, width = targets[0][0].height, targets[0][0].width
        chunk = max(1, SCORING_CHUNK_PIXELS // (height * width))
        ious: list[float] = []
        for start in range(0, len(targets), chunk):
            masks = mask_to_clip_size(logits[start : start + chunk], height, width)
            ious += self.score_masks(masks, targets[start : start + chunk])
        return ious

    def score_masks(self, masks: Tensor, targets: Sequence[tuple[Masklets, int]]) -> list[float]:
        """IoU of (N, H, W) bool masks against N (masklets, frame)."""
        return [float(x) for x in self.ious(masks, targets).tolist()]

    def ious(self, masks: Tensor, targets: Sequence[tuple[Masklets, int]]) -> Tensor:
        """The same as (N,) float64 on the device of ``masks``."""
        if not targets:
            return masks.new_zeros(0, dtype=torch.float64)
        return mask_iou(masks, self.unions(targets))

    def unions(self, targets: Sequence[tuple[Masklets, int]]) -> Tensor:
        """(N, H, W) bool; (0,) for none."""
        unions = [self.union(masklets, frame) for masklets, frame in targets]
        return torch.stack(unions) if unions else torch.zeros(0, dtype=torch.bool, device=self._device)


def judge_masks(masks: NDArray[np.bool_], there: NDArray[np.bool_]) -> list[tuple[float, float, bool]]:
    """J, F (`rewards.metrics`) and whether there is a mask, of (N, H, W) masks against as many of ground truth."""
    from rewards.metrics import jf_masks

    j, f = jf_masks(masks, there)
    return [(float(j[i]), float(f[i]), bool(mask.any())) for i, mask in enumerate(masks)]
