"""How good the warmed-up masks are on clips that it never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from rewards.segmenter import Segmenter, mask_iou, mask_to_clip_size
from verl_ext.tiny.warm_up_clips import Query, WarmUpClip
from verl_ext.tiny.warm_up_tasks import WordTable

FRAME_STEP = 4
"""Single frames are judged on every fourth."""


@dataclass
class _Tally:
    """IoUs where the object is visible, where it is not, and pixels where it is."""

    visible: list[float] = field(default_factory=list)
    absent: list[float] = field(default_factory=list)
    intersection: int = 0
    union: int = 0

    def add(self, masks: Tensor, truth: Tensor) -> None:
        """(N, H, W) bool each."""
        seen = truth.flatten(1).any(1)
        ious = mask_iou(masks, truth)
        self.visible += ious[seen].tolist()
        self.absent += ious[~seen].tolist()
        self.intersection += int((masks & truth)[seen].sum())
        self.union += int((masks | truth)[seen].sum())


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


@torch.no_grad()
def measure(
    segmenter: Segmenter, table: WordTable, clips: Sequence[WarmUpClip], max_propagated: int = 8
) -> dict[str, float]:
    """Everything in 0..1, at the clips' own size.

    frame_pixel_iou: shared pixels over all pixels of visible objects, single frames, prompted by words.
    frame_iou, frame_absent: mean IoU where visible; share of frames without the object that get an empty mask.
    propagated_j, propagated_absent: the same over whole clips, state injected in every frame.
    box_j, box_absent: the same from a box at the frame where the object is largest.
    click_iou: mean IoU of a click's mask with the object under it, on single frames.
    """
    frame, propagated, boxed, clicked = _Tally(), _Tally(), _Tally(), _Tally()
    rng = np.random.default_rng(0)
    for clip in clips:
        frames = range(0, clip.clip.num_frames, FRAME_STEP)
        features = segmenter.encode(clip.pixels(segmenter, frames))
        pairs = [(q, i) for q in _queries(clip) for i in range(len(frames))]
        logits, _ = segmenter.decode(features, [i for _, i in pairs], table([q for q, _ in pairs]))
        masks = mask_to_clip_size(logits, clip.clip.height, clip.clip.width).cpu()
        frame.add(masks, torch.from_numpy(np.stack([clip.mask(q, frames[i]) for q, i in pairs])))
        _click(segmenter, clip, [t for t in frames if clip.visible(t)], clicked, rng)
    for clip in clips[:max_propagated]:
        _propagate(segmenter, table, clip, propagated, boxed)
    return {
        "frame_pixel_iou": frame.intersection / max(1, frame.union),
        "frame_iou": _mean(frame.visible),
        "frame_absent": _mean(frame.absent),
        "propagated_j": _mean(propagated.visible),
        "propagated_absent": _mean(propagated.absent),
        "box_j": _mean(boxed.visible),
        "box_absent": _mean(boxed.absent),
        "click_iou": _mean(clicked.visible),
    }


def _queries(clip: WarmUpClip) -> list[Query]:
    """Every object by its first word and by all its words."""
    return sorted({o.words[:1] for o in clip.objects} | {o.words for o in clip.objects})


def _click(
    segmenter: Segmenter, clip: WarmUpClip, frames: Sequence[int], tally: _Tally, rng: np.random.Generator
) -> None:
    size = (clip.clip.height, clip.clip.width)
    for t in frames:
        point, mask = clip.click(t, rng)
        features = segmenter.encode(clip.pixels(segmenter, [t]))
        logits = segmenter.propagate(features, [0], points=torch.tensor([point]), clip_size=size)
        tally.add(mask_to_clip_size(logits[0], *size), torch.from_numpy(mask)[None])


def _propagate(segmenter: Segmenter, table: WordTable, clip: WarmUpClip, by_state: _Tally, by_box: _Tally) -> None:
    total, size = clip.clip.num_frames, (clip.clip.height, clip.clip.width)
    queries = sorted({o.words for o in clip.objects})
    keyframes = [max(range(total), key=lambda t, q=q: int(clip.mask(q, t).sum())) for q in queries]  # type: ignore[misc]
    features = segmenter.encode(clip.pixels(segmenter, range(total)))
    boxes = torch.tensor([clip.box(q, k) for q, k in zip(queries, keyframes, strict=True)])
    for tally, logits in (
        (by_state, segmenter.propagate(features, keyframes, states=table(queries))),
        (by_box, segmenter.propagate(features, keyframes, boxes=boxes, clip_size=size)),
    ):
        for q, item in zip(queries, logits, strict=True):
            truth = torch.from_numpy(np.stack([clip.mask(q, t) for t in range(total)]))
            tally.add(mask_to_clip_size(item, *size), truth)
