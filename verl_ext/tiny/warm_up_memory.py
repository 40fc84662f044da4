"""What becomes of SAM 2's memory where the warm-up never used it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from rewards.segmenter import Segmenter
from verl_ext.tiny.warm_up_clips import WarmUpClip

CLIPS = 16
"""Clips whose first and middle frame the normalisation is fitted to."""


@torch.no_grad()
def silence_memory(segmenter: Segmenter, clips: Sequence[WarmUpClip]) -> float:
    """Make untrained memory attention pass frames on as they are, in place.

    Its random residuals disturb what the decoder has learnt to read, more with some seeds than with others (J of
    propagated masks 0.73 to 0.89 where single frames have 0.87 to 0.91). They are set to zero, and its last
    normalisation is fitted, channel by channel, to the features of a frame without memories: a prompt that is injected
    in every frame then draws what it draws on that frame alone.

    Returns the share of the features' variance that the fit leaves, 0 to 1.
    """
    model = segmenter.sam2_model
    for layer in model.memory_attention.layers:
        for last in (layer.self_attn.out_proj, layer.cross_attn_image.out_proj, layer.linear2):
            last.weight.zero_()
            last.bias.zero_()
    given, wanted = [], []
    for clip in clips[:CLIPS]:
        features = segmenter.encode(clip.pixels(segmenter, sorted({0, clip.clip.num_frames // 2})))
        frame = features.levels[2].flatten(2).transpose(1, 2)  # (F, Q, d)
        position = features.position.flatten(2).transpose(1, 2)
        given.append(F.layer_norm(frame + 0.1 * position, frame.shape[-1:]).flatten(0, 1))
        wanted.append((frame + model.no_mem_embed.reshape(1, 1, -1)).flatten(0, 1))
    x, y = torch.cat(given), torch.cat(wanted)
    dx, dy = x - x.mean(0), y - y.mean(0)
    norm = model.memory_attention.norm
    norm.weight.copy_((dx * dy).mean(0) / (dx * dx).mean(0).clamp(min=1e-6))
    norm.bias.copy_(y.mean(0) - norm.weight * x.mean(0))
    left = norm.weight * x + norm.bias - y
    return float((left**2).mean() / (dy**2).mean())
