"""SAM 2's prompt encoder and mask decoder, with a ``[SEG]`` state as one more prompt (SPEC 2.2).

Shape legend: n items, C prompt width, K candidate masks, h x w low-resolution logits (a quarter of the input).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rewards.segmenter.features import Levels

NO_OBJECT_LOGIT = -1024.0
"""What stock SAM 2 writes into a mask whose object score is negative."""


@dataclass(frozen=True)
class Prompt:
    """Embedded prompts of n items."""

    sparse: Tensor
    """(n, tokens, C)"""
    dense: Tensor
    """(n, C, S/16, S/16)"""
    multimask: bool
    """Three candidates, or the single mask that SAM 2 gives to a box."""


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


def embed_states(model: Any, states: Tensor) -> Prompt:
    """(n, C) states, each appended after the padding points (label -1) that stand for "no click"."""
    empty = embed_nothing(model, states.shape[0])
    return Prompt(torch.cat([empty.sparse, states[:, None].to(empty.sparse)], dim=1), empty.dense, multimask=True)


def embed_nothing(model: Any, n: int) -> Prompt:
    """The prompt of a frame that is only tracked."""
    device = model.no_mem_embed.device
    coords = torch.zeros(n, 1, 2, device=device)
    labels = -torch.ones(n, 1, dtype=torch.int32, device=device)
    sparse, dense = model.sam_prompt_encoder(points=(coords, labels), boxes=None, masks=None)
    return Prompt(sparse, dense, multimask=True)


def embed_boxes(model: Any, boxes: Tensor, states: Tensor | None = None) -> Prompt:
    """(n, 4) x0, y0, x1, y1 in pixels of the encoder's input, as corner points (labels 2 and 3).

    ``states`` (n, C) join them as further prompts: a box says where, and the single mask of a box is what comes out.
    """
    coords = boxes.reshape(-1, 2, 2).to(model.no_mem_embed)
    labels = torch.tensor([[2, 3]], dtype=torch.int32, device=coords.device).expand(coords.shape[0], 2)
    sparse, dense = model.sam_prompt_encoder(points=(coords, labels), boxes=None, masks=None)
    if states is not None:
        sparse = torch.cat([sparse, states[:, None].to(sparse)], dim=1)
    return Prompt(sparse, dense, multimask=False)


def run_heads(model: Any, image: Tensor, levels: Levels, prompt: Prompt, *, gate: bool) -> HeadOutput:
    """Decode n items.

    Args:
        image: (n, C, S/16, S/16) coarsest features, already fused with memory or the no-memory embedding.
        levels: their high-resolution maps come from here; n frames.
        gate: blank the mask where the object score is negative.
    """
    candidates, ious, tokens, score = model.sam_mask_decoder(
        image_embeddings=image,
        image_pe=model.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=prompt.sparse,
        dense_prompt_embeddings=prompt.dense,
        multimask_output=prompt.multimask,
        repeat_image=False,
        high_res_features=[levels[0], levels[1]],
    )
    candidates = candidates.float()
    rows = torch.arange(image.shape[0], device=image.device)
    best = ious.argmax(dim=1)
    logits = candidates[rows, best]
    visible = score > 0
    if gate:
        logits = torch.where(visible[:, :, None], logits, NO_OBJECT_LOGIT)
    seen = visible.to(tokens.dtype)
    pointer = seen * model.obj_ptr_proj(tokens[rows, best]) + (1 - seen) * model.no_obj_ptr
    return HeadOutput(logits, ious[rows, best], pointer, score, candidates, ious)
