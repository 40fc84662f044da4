"""IoUs of a micro-batch's masks, where the pass that draws them also scores them (SPEC 2.5)."""

from __future__ import annotations

import torch

from rewards.segmenter.truth import Truth
from rewards.truth import truth
from rollout.types import Masklets
from verl_ext.seg.batch import SegBatch, rows_with_dummy


def mask_ious(seg: SegBatch, masks: torch.Tensor) -> torch.Tensor:
    """(1 + n k) float32, jagged: IoU of each of the pairs' masks with ground truth at the clip's size, in their order.

    masks: (M, h, w) logits of the pairs: k for each of a sequence's n ``[SEG]`` tokens, the keyframe's first.

    Raises:
        DataError: a split has no masks to score against.
    """
    scorer = Truth(masks.device)
    decoded: dict[str, Masklets] = {}  # once for all rollouts of a prompt
    values: list[float] = []
    counts = seg.mask_counts().sum(dim=1).tolist()
    for b, (sample, count) in enumerate(zip(seg.samples, counts, strict=True)):
        if count:
            found = decoded.setdefault(sample.id, truth(sample))
            frames = [seg.frames[frame][1] for _, frame, _, owner in seg.pairs if owner == b]
            logits = masks[len(values) : len(values) + count]
            values += scorer.score_logits(logits, [(found, frame) for frame in frames])
    return rows_with_dummy(torch.tensor(values, dtype=torch.float32, device=masks.device), counts)
