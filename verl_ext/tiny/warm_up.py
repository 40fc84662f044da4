"""Mask warm-up: stands in for SAM 2's pre-training where SAM 2 is tiny and starts at random.

Trains all of SAM 2 on three tasks: decode an attribute on a single frame, decode a box on a single frame, and
propagate either over a few frames. The prompt of an attribute is a row of a small learned table, which is thrown away:
later the policy's ``[SEG]`` states take its place.

Shape legend: N items, K candidate masks, h side of mask logits, C width of a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rewards.segmenter import Features, Segmenter
from rewards.segmenter.heads import HeadOutput, embed_boxes, run_heads
from rollout.types import Sample
from verl_ext.tiny.warm_up_clips import Query, WarmUpClip, collect_clips, soft_targets

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class WarmUpSettings:
    """What LEARNING measured to work, and the mix of tasks."""

    lr: float = 1e-3
    weight_decay: float = 0.05
    prompt_std: float = 2.0
    """Spread of the attribute table's initial rows; a smaller one leaves the decoder on "all shapes"."""
    frames_per_step: int = 8
    objects_per_frame: int = 2
    full_share: float = 0.5
    """How often an object is asked for by all its words instead of the first alone."""
    absent_share: float = 0.5
    """How often a frame is also asked for something that is not in it."""
    box_every: int = 2
    box_weight: float = 0.5
    propagation_every: int = 3
    """Of so many steps, one propagates (after the first half, which only decodes single frames)."""
    propagated_frames: int = 4
    held_out_share: float = 0.1


class WordTable(nn.Module):
    """(words, C) learned rows; the prompt of a query is the sum of its words' rows."""

    def __init__(self, words: Sequence[str], width: int, std: float) -> None:
        super().__init__()
        self.index = {word: i for i, word in enumerate(words)}
        self.rows = nn.Embedding(len(words), width)
        nn.init.normal_(self.rows.weight, std=std)

    def forward(self, queries: Sequence[Query]) -> Tensor:
        device = self.rows.weight.device
        return torch.stack([self.rows(torch.tensor([self.index[w] for w in q], device=device)).sum(0) for q in queries])


def mask_loss(head: HeadOutput, target: Tensor) -> Tensor:
    """Mean over N of: 2 BCE + 0.5 dice of every candidate, error of its predicted IoU, BCE of the object score.

    target (N, h, h) in 0..1. Every candidate learns, so that whichever is chosen is good.
    """
    logits = head.candidates.flatten(2)
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


class WarmUp:
    """The segmenter, its throw-away prompts and the clips; one method per task."""

    def __init__(self, segmenter: Segmenter, clips: Sequence[WarmUpClip], settings: WarmUpSettings, seed: int) -> None:
        self.segmenter, self.settings = segmenter, settings
        self.rng = np.random.default_rng(seed)
        held_out = max(1, round(len(clips) * settings.held_out_share)) if len(clips) > 1 else 0
        self.train, self.held_out = list(clips[held_out:]), list(clips[:held_out] or clips)
        self.descriptions = sorted({o.words for c in clips for o in c.objects})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            words = sorted({w for q in self.descriptions for w in q})
            self.table = WordTable(words, segmenter.prompt_width, settings.prompt_std).to(segmenter.device)

    def single_frame_loss(self) -> Tensor:
        """Some visible objects of a few frames by their words, often words for nothing there, and a box each."""
        s = self.settings
        rows: list[int] = []
        queries: list[Query] = []
        targets, pixels = [], []
        box_rows, boxes, box_targets = [], [], []
        for row in range(s.frames_per_step):
            clip = self.train[int(self.rng.integers(len(self.train)))]
            frame = int(self.rng.integers(clip.clip.num_frames))
            pixels.append(clip.pixels(self.segmenter, [frame]))
            for query in self._draw_queries(clip, frame):
                rows.append(row)
                queries.append(query)
                targets.append(clip.mask(query, frame))
            visible = clip.visible(frame)
            if visible and row % s.box_every == 0:
                query = visible[int(self.rng.integers(len(visible)))]
                box_rows.append(row)
                boxes.append(self._jittered_box(clip, query, frame))
                box_targets.append(clip.mask(query, frame))
        features = self.segmenter.encode(torch.cat(pixels))
        head = self.segmenter.decode_candidates(features, rows, self.table(queries))
        loss = mask_loss(head, self._soft(targets))
        if boxes:
            size = self.train[0].clip
            loss = loss + s.box_weight * mask_loss(self.decode_boxes(features, box_rows, boxes, (size.height, size.width)), self._soft(box_targets))
        return loss

    def propagation_loss(self) -> Tensor:
        """Two objects of a clip over a few frames, one prompted by its attribute in every frame, one by its box."""
        clip = self.train[int(self.rng.integers(len(self.train)))]
        count = min(self.settings.propagated_frames, clip.clip.num_frames)
        stride = int(self.rng.integers(1, max(2, min(3, (clip.clip.num_frames - 1) // max(1, count - 1)) + 1)))
        first = int(self.rng.integers(clip.clip.num_frames - stride * (count - 1)))
        frames = [first + stride * i for i in range(count)]
        seen = [(q, i) for i, t in enumerate(frames) for q in clip.visible(t)]
        features = self.segmenter.encode(clip.pixels(self.segmenter, frames))
        loss = features.levels[2].sum() * 0
        for kind in ("states", "boxes") if seen else ():
            drawn = [seen[int(i)] for i in self.rng.integers(len(seen), size=2)]
            queries = [q for q, _ in drawn]
            if kind == "states":
                keyframes = [int(i) for i in self.rng.integers(count, size=2)]
                steps = self.segmenter.propagation_steps(features, keyframes, states=self.table(queries))
            else:
                boxes = torch.tensor([self._jittered_box(clip, q, frames[i]) for q, i in drawn])
                size = (clip.clip.height, clip.clip.width)
                steps = self.segmenter.propagation_steps(features, [i for _, i in drawn], boxes=boxes, clip_size=size)
            for step in steps:
                masks = [clip.mask(queries[i], frames[f]) for i, f in zip(step.items, step.frames, strict=True)]
                loss = loss + mask_loss(step.head, self._soft(masks)) * len(masks) / (2 * count)
        return loss / 2

    def _draw_queries(self, clip: WarmUpClip, frame: int) -> list[Query]:
        """Objects by one word or by all, and now and then a description that fits nothing in the frame."""
        visible = clip.visible(frame)
        chosen = [visible[int(i)] for i in self.rng.permutation(len(visible))[: self.settings.objects_per_frame]]
        queries = [q if self.rng.random() < self.settings.full_share else q[:1] for q in chosen]
        absent = [q for q in self.descriptions if q not in visible]
        if absent and (not queries or self.rng.random() < self.settings.absent_share):
            query = absent[int(self.rng.integers(len(absent)))]
            first_words = {q[0] for q in visible}
            queries.append(query if query[0] in first_words or self.rng.random() < 0.5 else query[:1])
        return queries

    def _jittered_box(self, clip: WarmUpClip, query: Query, frame: int) -> list[float]:
        x0, y0, x1, y1 = clip.box(query, frame)
        noise = self.rng.normal(scale=0.05, size=4) * np.array([x1 - x0, y1 - y0] * 2)
        limits = [clip.clip.width, clip.clip.height] * 2
        return [float(np.clip(v, 0, m)) for v, m in zip(np.array([x0, y0, x1, y1]) + noise, limits, strict=True)]

    def decode_boxes(self, features: Features, rows: list[int], boxes: Sequence[Sequence[float]], size: tuple[int, int]) -> HeadOutput:
        """Masks of boxes (pixels of clips of ``size`` = (H, W)) on single frames."""
        model = self.segmenter.sam2_model
        levels = features.gather(rows)
        image = levels[2] + model.no_mem_embed.reshape(1, -1, 1, 1)
        extent = torch.tensor([size[1], size[0]] * 2, dtype=torch.float32)
        prompt = embed_boxes(model, torch.tensor(boxes) / extent * model.image_size)
        return run_heads(model, image, levels, prompt, gate=False)

    def _soft(self, masks: list[np.ndarray]) -> Tensor:
        return soft_targets(masks, self.segmenter.logit_size).to(self.segmenter.device)
