"""A segmenter's prompt encoder and mask decoder, with a ``[SEG]`` state as one more prompt (SPEC 2.2).

Shape legend: n items, C prompt width, K candidate masks, h x w low-resolution logits (a quarter of the input).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from rewards.segmenter.architecture import Architecture
from rewards.segmenter.features import Levels

NO_OBJECT_LOGIT = -1024.0
"""What stock SAM 2 writes into a mask whose object score is negative."""


@dataclass(frozen=True)
class Prompt:
    """Embedded prompts of n items."""

    sparse: Tensor
    """(n, tokens, C)"""
    dense: Tensor
    """(n, C, S/16, S/16), the same for all: no prompt of ours is a mask."""
    multimask: bool
    """Three candidates (also for a single click), or the single mask that a box gets."""

    def of(self, items: Tensor) -> Prompt:
        """Those of ``items``, (k,) rows."""
        dense = self.dense[:1].expand(len(items), -1, -1, -1)
        return Prompt(self.sparse.index_select(0, items), dense, self.multimask)


@dataclass(frozen=True)
class HeadOutput:
    """What the mask decoder says about n items."""

    logits: Tensor
    """(n, h, w) float32: the candidate of best predicted IoU, gated if the caller asked for it."""
    iou: Tensor
    """(n,) its predicted IoU."""
    pointer: Tensor
    """(n, C) object pointer, a memory of the object."""
    object_score: Tensor
    """(n, 1) logit: is the object in the frame."""
    candidates: Tensor
    """(n, K, h, w) all masks, never gated."""
    candidate_ious: Tensor
    """(n, K)"""

    def first(self, n: int) -> HeadOutput:
        return HeadOutput(*(getattr(self, field.name)[:n] for field in fields(self)))


def embed_states(arch: Architecture, states: Tensor) -> Prompt:
    """(n, C) states, each appended after the padding points (label -1) that stand for "no click"."""
    empty = embed_nothing(arch, states.shape[0], states.device)
    return Prompt(torch.cat([empty.sparse, states[:, None].to(empty.sparse)], dim=1), empty.dense, multimask=True)


def embed_nothing(arch: Architecture, n: int, device: torch.device) -> Prompt:
    """The prompt of a frame that is only tracked."""
    coords = torch.zeros(n, 1, 2, device=device)
    labels = -torch.ones(n, 1, dtype=torch.int32, device=device)
    return Prompt(*arch.embed_points(coords, labels), multimask=True)


def embed_boxes(arch: Architecture, boxes: Tensor, states: Tensor | None = None) -> Prompt:
    """(n, 4) x0, y0, x1, y1 in pixels of the encoder's input, as corner points (labels 2 and 3).

    ``states`` (n, C) join them as further prompts: a box says where, and the single mask of a box is what comes out.
    """
    coords = boxes.reshape(-1, 2, 2)
    labels = torch.tensor([[2, 3]], dtype=torch.int32, device=coords.device).expand(coords.shape[0], 2)
    sparse, dense = arch.embed_points(coords, labels)
    if states is not None:
        sparse = torch.cat([sparse, states[:, None].to(sparse)], dim=1)
    return Prompt(sparse, dense, multimask=False)


def embed_points(arch: Architecture, points: Tensor) -> Prompt:
    """(n, 2) x, y in pixels of the encoder's input: one click each on what is meant (label 1)."""
    labels = torch.ones(points.shape[0], 1, dtype=torch.int32, device=points.device)
    return Prompt(*arch.embed_points(points.reshape(-1, 1, 2), labels), multimask=True)


def run_heads(
    arch: Architecture, image: Tensor, levels: Levels, prompt: Prompt, *, gate: bool, position: Tensor | None = None
) -> HeadOutput:
    """Decode n items.

    Args:
        image: (n, C, S/16, S/16) coarsest features, already fused with memory or the no-memory embedding.
        levels: their high-resolution maps come from here; n frames.
        gate: blank the mask where the object score is negative.
        position: the decoder's dense position encoding, if it is at hand.
    """
    pe = arch.dense_position() if position is None else position
    raw = arch.decode(image, levels, prompt.sparse, prompt.dense, pe, prompt.multimask)
    candidates = raw.candidates.float()
    rows = torch.arange(image.shape[0], device=image.device)
    best = raw.ious.argmax(dim=1)
    logits = candidates[rows, best]
    visible = raw.object_score > 0
    if gate:
        logits = torch.where(visible[:, :, None], logits, NO_OBJECT_LOGIT)
    pointer = arch.pointers(raw.tokens[rows, best], visible.to(raw.tokens.dtype))
    return HeadOutput(logits, raw.ious[rows, best], pointer, raw.object_score, candidates, raw.ious)
