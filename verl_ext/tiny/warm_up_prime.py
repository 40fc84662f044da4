"""Starting values that a pre-trained SAM 2 has learnt and a random one would need thousands of steps to find.

Measured on synthetic clips at tiny size: without them box prompts, and tracking without a prompt, stay where they were
for the whole warm-up (mask IoU 0.3) while everything else trains.
"""

from __future__ import annotations

from typing import Any

import torch

POSITION_SCALE = 0.4
"""SAM draws its Fourier features of position for a 64 x 64 grid; on 8 x 8 cells neighbours must look more alike."""
LOOK_GAIN = 3.0
"""Sharpness with which prompt tokens attend to their own place in the image."""
MEMORY_BIAS = 5.0
"""Sharpness with which a frame attends to the same place in a memory."""


@torch.no_grad()
def prime_attention(model: Any) -> None:
    """Make a random SAM 2's attention local, in place."""
    model.sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.mul_(POSITION_SCALE)
    transformer = model.sam_mask_decoder.transformer
    for layer in transformer.layers:
        _attend_to_alike(layer.cross_attn_token_to_image)
        _attend_to_alike(layer.cross_attn_image_to_token)
    _attend_to_alike(transformer.final_attn_token_to_image)
    for layer in model.memory_attention.layers:
        # equal constant queries and keys leave the rotary encoding, whose product is largest at the same place
        layer.cross_attn_image.q_proj.bias.fill_(MEMORY_BIAS)
        layer.cross_attn_image.k_proj.bias.fill_(MEMORY_BIAS)


def _attend_to_alike(attention: Any) -> None:
    """Equal projections for queries and keys: what has the same position encoding attends to itself."""
    attention.q_proj.weight.mul_(LOOK_GAIN)
    attention.k_proj.weight.copy_(attention.q_proj.weight)
    attention.k_proj.bias.copy_(attention.q_proj.bias)
