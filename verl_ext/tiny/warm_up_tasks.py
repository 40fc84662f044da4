"""The two kinds of training step of the mask warm-up.

Shape legend: N items, C width of a prompt, h side of mask logits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rewards.segmenter import Segmenter
from rewards.segmenter.heads import embed_boxes, embed_points
from rewards.segmenter.propagate import Step
from verl_ext.tiny.warm_up_clips import Query, WarmUpClip, soft_targets
from verl_ext.tiny.warm_up_loss import decode_prompts, mask_loss


@dataclass(frozen=True)
class TaskSettings:
    """How a step draws its examples."""

    frames_per_step: int = 8
    objects_per_frame: int = 2
    full_share: float = 0.5
    """How often an object is asked for by all its words instead of the first alone."""
    absent_share: float = 0.5
    """How often something is asked for that is not in the frame."""
    frame_box_share: float = 1.0
    """How often a single frame also gets a box; 0 leaves boxes untrained there."""
    frame_click_share: float = 0.0
    """How often a single frame also gets a click."""
    propagated_frames: int = 4
    max_stride: int = 3
    state_items: int = 2
    box_items: int = 3
    box_share: float = 1.0
    """How often a propagation step also propagates boxes."""


class WordTable(nn.Module):
    """(words, C) learned rows; the prompt of a query is the sum of its words' rows."""

    def __init__(self, words: Sequence[str], width: int, std: float) -> None:
        super().__init__()
        self.index = {word: i for i, word in enumerate(words)}
        self.rows = nn.Embedding(len(words), width)
        nn.init.normal_(self.rows.weight, std=std)

    def forward(self, queries: Sequence[Query]) -> Tensor:
        """(N, C)"""
        device = self.rows.weight.device
        return torch.stack([self.rows(torch.tensor([self.index[w] for w in q], device=device)).sum(0) for q in queries])


@dataclass
class _Placed:
    """Boxes, or clicks, of a step's frames."""

    rows: list[int] = field(default_factory=list)
    """Which frame."""
    places: list[list[float]] = field(default_factory=list)
    masks: list[NDArray[np.bool_]] = field(default_factory=list)

    def add(self, row: int, place: list[float], mask: NDArray[np.bool_]) -> None:
        self.rows.append(row)
        self.places.append(place)
        self.masks.append(mask)


class TaskSampler:
    """Draws examples from clips and turns them into a loss."""

    def __init__(
        self,
        segmenter: Segmenter,
        table: WordTable,
        clips: Sequence[WarmUpClip],
        settings: TaskSettings,
        rng: np.random.Generator,
    ) -> None:
        self._segmenter, self._table, self._clips, self._settings, self._rng = segmenter, table, clips, settings, rng
        self._descriptions = sorted({o.words for c in clips for o in c.objects})

    def single_frame_loss(self) -> Tensor:
        """Objects of a few frames by their words, often words for nothing there; one of each by its box, and by a
        click."""
        rows: list[int] = []
        queries: list[Query] = []
        targets, pixels = [], []
        boxes, clicks = _Placed(), _Placed()
        for row in range(self._settings.frames_per_step):
            clip = self._clips[int(self._rng.integers(len(self._clips)))]
            frame = int(self._rng.integers(clip.clip.num_frames))
            pixels.append(clip.pixels(self._segmenter, [frame]))
            for query in self._draw_queries(clip, frame):
                rows.append(row)
                queries.append(query)
                targets.append(clip.mask(query, frame))
            visible = clip.visible(frame)
            if visible and self._rng.random() < self._settings.frame_box_share:
                query = self._any(visible)
                boxes.add(row, self._in_encoder(clip, self._loose_box(clip, query, frame)), clip.mask(query, frame))
            if visible and self._rng.random() < self._settings.frame_click_share:
                point, mask = clip.click(frame, self._rng)
                clicks.add(row, self._in_encoder(clip, point), mask)
        features = self._segmenter.encode(torch.cat(pixels))
        loss = mask_loss(self._segmenter.decode_candidates(features, rows, self._table(queries)), self._soft(targets))
        for placed, embed in ((boxes, embed_boxes), (clicks, embed_points)):
            if placed.rows:
                head = decode_prompts(self._segmenter, features, placed.rows, embed, placed.places)
                loss = loss + mask_loss(head, self._soft(placed.masks))
        return loss

    def _in_encoder(self, clip: WarmUpClip, place: Sequence[float]) -> list[float]:
        """x before y, from pixels of the clip to those of the encoder's input."""
        size = np.array([clip.clip.width, clip.clip.height] * (len(place) // 2))
        return [float(v) for v in np.asarray(place) / size * self._segmenter.config.input_size]

    def propagation_loss(self) -> Tensor:
        """A few frames of a clip: objects by their words in every frame, others by a box in one frame alone."""
        s, clip = self._settings, self._clips[int(self._rng.integers(len(self._clips)))]
        total = clip.clip.num_frames
        count = min(s.propagated_frames, total)
        stride = int(self._rng.integers(1, max(1, min(s.max_stride, (total - 1) // max(1, count - 1))) + 1))
        first = int(self._rng.integers(total - stride * (count - 1)))
        frames = [first + stride * i for i in range(count)]
        features = self._segmenter.encode(clip.pixels(self._segmenter, frames))

        drawn_at = [frames[int(i)] for i in self._rng.integers(count, size=s.state_items)]
        queries = [self._draw_queries(clip, t)[0] for t in drawn_at]
        keyframes = [int(i) for i in self._rng.integers(count, size=s.state_items)]
        steps = self._segmenter.propagation_steps(features, keyframes, states=self._table(queries))
        loss = self._steps_loss(steps, clip, queries, frames)
        seen = [(q, i) for i, t in enumerate(frames) for q in clip.visible(t)]
        if seen and self._rng.random() < s.box_share:
            drawn = [seen[int(i)] for i in self._rng.integers(len(seen), size=s.box_items)]
            boxes = torch.tensor([self._loose_box(clip, q, frames[i]) for q, i in drawn])
            size = (clip.clip.height, clip.clip.width)
            steps = self._segmenter.propagation_steps(features, [i for _, i in drawn], boxes=boxes, clip_size=size)
            loss = loss + self._steps_loss(steps, clip, [q for q, _ in drawn], frames)
        return loss

    def _steps_loss(
        self, steps: Iterable[Step], clip: WarmUpClip, queries: Sequence[Query], frames: Sequence[int]
    ) -> Tensor:
        """Mean over items and frames."""
        parts = []
        for step in steps:
            masks = [clip.mask(queries[i], frames[f]) for i, f in zip(step.items, step.frames, strict=True)]
            parts.append(mask_loss(step.head, self._soft(masks)) * len(masks))
        return torch.stack(parts).sum() / (len(queries) * len(frames))

    def _draw_queries(self, clip: WarmUpClip, frame: int) -> list[Query]:
        """Visible objects by one word or by all, and now and then a description that fits nothing in the frame."""
        visible = clip.visible(frame)
        chosen = [visible[int(i)] for i in self._rng.permutation(len(visible))[: self._settings.objects_per_frame]]
        queries = [q if self._rng.random() < self._settings.full_share else q[:1] for q in chosen]
        absent = [q for q in self._descriptions if q not in visible]
        if absent and (not queries or self._rng.random() < self._settings.absent_share):
            query = self._any(absent)
            shares_first_word = query[0] in {q[0] for q in visible}
            queries.insert(0, query if shares_first_word or self._rng.random() < 0.5 else query[:1])
        return queries

    def _any(self, queries: Sequence[Query]) -> Query:
        return queries[int(self._rng.integers(len(queries)))]

    def _loose_box(self, clip: WarmUpClip, query: Query, frame: int) -> list[float]:
        """A box, in pixels of the clip, that misses the object's edges by about a twentieth of its size."""
        x0, y0, x1, y1 = clip.box(query, frame)
        loose = np.array([x0, y0, x1, y1]) + self._rng.normal(scale=0.05, size=4) * np.array([x1 - x0, y1 - y0] * 2)
        extent = np.array([clip.clip.width, clip.clip.height] * 2)
        return [float(v) for v in np.clip(loose, 0, extent)]

    def _soft(self, masks: Sequence[NDArray[np.bool_]]) -> Tensor:
        return soft_targets(masks, 2 * self._segmenter.logit_size).to(self._segmenter.device)
