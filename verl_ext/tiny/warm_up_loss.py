"""What the mask warm-up asks of a mask decoder's output, and decoding of boxes and clicks on single frames.

Shape legend: N items, K candidate masks, h side of mask logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rewards.segmenter import Features, Segmenter
from rewards.segmenter.heads import HeadOutput, Prompt, run_heads


def mask_loss(head: HeadOutput, target: Tensor) -> Tensor:
    """Mean over N of: 2 BCE + 0.5 dice of every candidate, error of its predicted IoU, BCE of the object score.

    target (N, 2h, 2h) in 0..1; logits are resized to it, so that they learn where an edge lies between their cells.
    Every candidate learns, so that whichever is chosen is good.
    """
    resized = F.interpolate(head.candidates, size=target.shape[-2:], mode="bilinear", align_corners=False)
    logits = resized.flatten(2)
    truth = target.flatten(1)[:, None].expand_as(logits)
    bce = F.binary_cross_entropy_with_logits(logits, truth)
    p = logits.sigmoid()
    dice = 1 - (2 * (p * truth).sum(-1) + 1) / (p.sum(-1) + truth.sum(-1) + 1)
    with torch.no_grad():
        hard, there = logits > 0, truth > 0.5
        union = (hard | there).sum(-1)
        iou = torch.where(union == 0, 1.0, (hard & there).sum(-1) / union.clamp(min=1))
    iou_error = (head.candidate_ious - iou).square().mean()
    visible = (target.flatten(1).sum(1, keepdim=True) > 0).float()
    presence = F.binary_cross_entropy_with_logits(head.object_score, visible)
    return 2 * bce + 0.5 * dice.mean() + 0.2 * iou_error + 0.2 * presence


def decode_prompts(
    segmenter: Segmenter,
    features: Features,
    rows: Sequence[int],
    embed: Callable[[Any, Tensor], Prompt],
    places: Sequence[Sequence[float]],
) -> HeadOutput:
    """Masks of N boxes or clicks, in pixels of the encoder's input, on single frames; ``embed`` is of `heads`."""
    arch = segmenter.architecture
    levels = features.gather(rows)
    prompt = embed(arch, torch.tensor(np.asarray(places, dtype=np.float32), device=segmenter.device))
    return run_heads(arch, arch.without_memory(levels[2]), levels, prompt, gate=False)
