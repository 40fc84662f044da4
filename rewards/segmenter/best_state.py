"""The ``[SEG]`` state with which the mask decoder draws given masks best: a bound on what any policy's head can say.

Shape legend: N targets, F frames of each, C width of a state, h x w mask logits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rewards.segmenter.features import Features, upload
from rewards.segmenter.masks import mask_iou, mask_to_clip_size
from rewards.segmenter.scoring import RequestScorer
from rewards.segmenter.segmenter import Segmenter
from rewards.segmenter.types import State
from rollout.types import Clip, Masklets

STEPS, LR = 120, 0.05
SEEN = 4
"""Frames on which a state is fitted: the keyframe, and others that show the target, evenly spaced."""
AT_ONCE = 32
"""Masks of one forward."""


def best_states(scorer: RequestScorer, clip: Clip, targets: Sequence[tuple[Masklets, int]]) -> list[State]:
    """(N,) states, one for each (masks, keyframe) of a clip; the best of a descent by IoU, weights stay as they are.

    Raises DataError for a frame that cannot be read.
    """
    size = max(1, AT_ONCE // SEEN)
    return [
        state
        for start in range(0, len(targets), size)
        for state in _descend(scorer, clip, targets[start : start + size])
    ]


def fitted_frames(masklets: Masklets, keyframe: int) -> list[int]:
    """(F,) `SEEN` of those that show a target, the keyframe first; repeated where there are fewer."""
    shown = [int(t) for t in np.flatnonzero(masklets.areas()) if t != keyframe]
    others = [shown[i] for i in np.linspace(0, len(shown) - 1, min(SEEN - 1, len(shown))).astype(int)] if shown else []
    frames = [keyframe, *others]
    return (frames * SEEN)[:SEEN]


def _descend(scorer: RequestScorer, clip: Clip, targets: Sequence[tuple[Masklets, int]]) -> list[State]:
    segmenter = scorer.segmenter
    frames = [fitted_frames(masklets, keyframe) for masklets, keyframe in targets]
    distinct = sorted({t for one in frames for t in one})
    features = scorer.cache.features(clip, distinct)
    rows = [distinct.index(t) for one in frames for t in one]
    unions = [masklets.union(t) for (masklets, _), one in zip(targets, frames, strict=True) for t in one]
    truth = upload(torch.from_numpy(np.stack(unions)), segmenter.device)
    with torch.enable_grad():
        return _fit(segmenter, features, rows, truth, len(targets))


def _fit(segmenter: Segmenter, features: Features, rows: list[int], truth: Tensor, count: int) -> list[State]:
    """``truth``: (N * F, H, W) bool at the clip's size."""
    side, (height, width) = segmenter.logit_size, truth.shape[1:]
    coarse = F.interpolate(truth[:, None].float(), size=(side, side), mode="area")[:, 0]
    states = torch.zeros(count, segmenter.prompt_width, device=truth.device, requires_grad=True)
    optimizer = torch.optim.Adam([states], lr=LR)
    best, best_iou = states.detach().clone(), truth.new_full((count,), -1.0, dtype=torch.float64)
    for step in range(STEPS + 1):
        logits, _ = segmenter.decode(features, rows, states.repeat_interleave(SEEN, 0))
        with torch.no_grad():
            iou = mask_iou(mask_to_clip_size(logits, height, width), truth).unflatten(0, (count, SEEN)).mean(1)
            better = iou > best_iou
            best = torch.where(better[:, None], states, best)
            best_iou = torch.where(better, iou, best_iou)
        if step < STEPS:
            (states.grad,) = torch.autograd.grad(_loss(logits, coarse), states)
            optimizer.step()
    return list(best.cpu().numpy().astype(np.float32))


def _loss(logits: Tensor, truth: Tensor) -> Tensor:
    """BCE and dice."""
    p = logits.sigmoid().flatten(1)
    t = truth.flatten(1)
    dice = 1 - (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)
    return F.binary_cross_entropy_with_logits(logits, truth) * len(truth) + dice.sum()
