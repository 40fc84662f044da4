"""Whether a ``[SEG]`` state and boxes of one answer mean the same, where SAM 2 could be prompted with both.

The rule: the state alone is decoded at the keyframe. If it draws a mask of which less than half lies in the boxes, the
two contradict each other, and the boxes draw alone: they are what the policy spelled out, and can be looked at. A state
that draws nothing contradicts nothing.

Shape legend: M requests, H x W pixels of the clip.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rewards.segmenter.cache import FeatureCache
from rewards.segmenter.masks import mask_to_clip_size
from rewards.segmenter.segmenter import Segmenter
from rewards.segmenter.types import BoxRequest, DrawnBy, PropagateRequest

INSIDE = 0.5
"""The least share of a ``[SEG]`` mask that lies in the boxes of the same answer."""


def drawn_by(
    segmenter: Segmenter, cache: FeatureCache, max_batch: int, group: Sequence[PropagateRequest | BoxRequest]
) -> list[DrawnBy]:
    """Per request of one clip, what prompts SAM 2. Raises DataError for a keyframe that cannot be read."""
    prompts = [(isinstance(r, BoxRequest) and len(r.boxes) > 0, r.state is not None) for r in group]
    kinds = {(False, False): DrawnBy.NOTHING, (True, False): DrawnBy.BOXES, (False, True): DrawnBy.SEG}
    found = [kinds.get(given, DrawnBy.BOTH) for given in prompts]
    both = {i: r for i, r in enumerate(group) if found[i] is DrawnBy.BOTH and isinstance(r, BoxRequest)}
    for i, agrees in _agreements(segmenter, cache, max_batch, both).items():
        found[i] = DrawnBy.BOTH if agrees else DrawnBy.BOXES_AGAINST_SEG
    return found


def _agreements(
    segmenter: Segmenter, cache: FeatureCache, max_batch: int, both: Mapping[int, BoxRequest]
) -> dict[int, bool]:
    """By request, for those that have boxes and a state."""
    if not both:
        return {}
    requests = list(both.values())
    clip, keyframes = requests[0].clip, sorted({r.keyframe for r in requests})
    features = cache.features(clip, keyframes)
    states = torch.stack([torch.as_tensor(r.state) for r in requests]).float().to(segmenter.device)
    verdicts: list[bool] = []
    for start in range(0, len(requests), max_batch):
        part = requests[start : start + max_batch]
        rows = [keyframes.index(r.keyframe) for r in part]
        logits, _ = segmenter.decode(features, rows, states[start : start + max_batch])
        masks = mask_to_clip_size(logits, clip.height, clip.width)
        verdicts += [lies_in(mask, r.boxes) for mask, r in zip(masks, part, strict=True)]
    return dict(zip(both, verdicts, strict=True))


def lies_in(mask: Tensor, boxes: Sequence[Sequence[float]]) -> bool:
    """Whether at least half of an (H, W) bool mask lies in the union of ``boxes`` (x0, y0, x1, y1 in its pixels)."""
    inside = torch.zeros_like(mask)
    for x0, y0, x1, y1 in boxes:
        inside[math.floor(y0) : math.ceil(y1) + 1, math.floor(x0) : math.ceil(x1) + 1] = True
    return float((mask & inside).sum()) >= INSIDE * float(mask.sum())
