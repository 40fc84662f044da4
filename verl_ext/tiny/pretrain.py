"""Run the mask warm-up: a few hundred steps that give a tiny SAM 2 what the public checkpoint brings with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from rewards.segmenter import Segmenter, mask_iou, mask_to_clip_size
from rollout.types import Sample
from verl_ext.tiny.warm_up import WarmUp, WarmUpSettings
from verl_ext.tiny.warm_up_clips import collect_clips

Progress = Callable[[int, int, str], None]

ATTENTION_TIE = 3.0
"""Factor on the query and key weights of the decoder's cross-attention, which start equal: prompts then attend to the
image places that resemble them from the first step. Untied, the decoder stays on "all shapes" several times longer."""
DECODER_TRANSFORMER_RATE = 0.1
"""The decoder's transformer learns this much slower than the rest."""


def warm_up_segmenter(
    segmenter: Segmenter,
    samples: Sequence[Sample],
    words: Mapping[str, Any],
    steps: int = 300,
    seed: int = 0,
    settings: WarmUpSettings | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Train all of SAM 2, in place; the image encoder and memory are frozen ever after.

    Args:
        words: annotation id -> words that describe the object (colour, shape).

    Returns:
        ``iou``: mean over held-out clips of the IoU of single-frame masks where the object shows; ``loss``.
    """
    settings = settings or WarmUpSettings()
    torch.manual_seed(seed)
    warm_up = WarmUp(segmenter, collect_clips(samples, words), settings, seed)
    tie_cross_attention(segmenter)
    slow = [p for n, p in segmenter.named_parameters() if "transformer" in n]
    fast = [p for n, p in segmenter.named_parameters() if "transformer" not in n] + list(warm_up.table.parameters())
    for p in [*slow, *fast]:
        p.requires_grad_(True)
    groups = [{"params": fast, "rate": 1.0}, {"params": slow, "rate": DECODER_TRANSFORMER_RATE}]
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, weight_decay=settings.weight_decay, betas=(0.9, 0.95))
    smooth = math.nan
    for step in range(steps):
        decay = min(1.0, (step + 1) / 20, max(0.02, 2 * (steps - step) / steps))
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * settings.lr * decay
        loss = warm_up.single_frame_loss()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*slow, *fast], 1.0)
        optimizer.step()
        smooth = loss.item() if math.isnan(smooth) else 0.95 * smooth + 0.05 * loss.item()
        if progress is not None:
            progress(step + 1, steps, f"training a tiny SAM 2, loss {smooth:.2f}")
    return {"iou": held_out_iou(warm_up), "loss": smooth, "steps": float(steps)}


def tie_cross_attention(segmenter: Segmenter) -> None:
    """See :data:`ATTENTION_TIE`."""
    with torch.no_grad():
        for module in segmenter.sam2_model.sam_mask_decoder.modules():
            if type(module).__name__ == "Attention" and module.internal_dim < module.embedding_dim:
                module.k_proj.weight.copy_(module.q_proj.weight)
                module.k_proj.bias.copy_(module.q_proj.bias)
                module.q_proj.weight.mul_(ATTENTION_TIE)
                module.k_proj.weight.mul_(ATTENTION_TIE)


@torch.no_grad()
def held_out_iou(warm_up: WarmUp, clips: int = 12, every: int = 4) -> float:
    """Mean IoU at the clips' own size, over visible objects of held-out clips."""
    values: list[float] = []
    for clip in warm_up.held_out[:clips]:
        frames = list(range(0, clip.clip.num_frames, every))
        features = warm_up.segmenter.encode(clip.pixels(warm_up.segmenter, frames))
        asked = [(query, row) for row, frame in enumerate(frames) for query in clip.visible(frame)]
        if not asked:
            continue
        prompts = warm_up.table([query for query, _ in asked])
        logits, _ = warm_up.segmenter.decode(features, [row for _, row in asked], prompts)
        masks = mask_to_clip_size(logits, clip.clip.height, clip.clip.width)
        truth = torch.stack([torch.from_numpy(clip.mask(query, frames[row])) for query, row in asked])
        values += mask_iou(masks, truth).tolist()
    return sum(values) / max(1, len(values))
