"""Qwen3-VL that also returns the projected ``[SEG]`` states and the masks that SAM 2 draws from them.

Shape legend: B sequences, L tokens, N ``[SEG]`` tokens, F frames, M (state, frame) pairs, C prompt width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLCausalLMOutputWithPast,
    Qwen3VLForConditionalGeneration,
)


@dataclass
class SegPolicyOutput(Qwen3VLCausalLMOutputWithPast):  # type: ignore[misc]
    """Adds to the language model's output:

    seg_states: (N, C) float32, in the order of the True entries of ``seg_mask``.
    mask_logits: (M, h, w) float32, one per (state, frame) pair; None where no pairs were asked for.
    detached_mask_logits: the same values, whose gradient ends at the projection; None unless asked for.
    """

    seg_states: torch.Tensor | None = None
    mask_logits: torch.Tensor | None = None
    detached_mask_logits: torch.Tensor | None = None


class SegPolicyForConditionalGeneration(Qwen3VLForConditionalGeneration):  # type: ignore[misc]
    """One forward does it all, so that FSDP's hooks see every parameter that is used."""

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        seg_mask: torch.Tensor | None = None,
        sam_pixels: torch.Tensor | None = None,
        pair_state: torch.Tensor | None = None,
        pair_frame: torch.Tensor | None = None,
        detach_masks: bool = False,
        **kwargs: Any,
    ) -> SegPolicyOutput:
        """
        Args:
            input_ids: (B, L) int64, or (1, total) packed.
            seg_mask: bool, like ``input_ids``: the ``[SEG]`` tokens that the policy sampled. None: language model only.
            sam_pixels: (F, 3, S, S) float, ImageNet-normalised frames for SAM 2.
            pair_state, pair_frame: (M,) int64 indices into the N states and F frames.
            detach_masks: also decode every pair from states that the language model gets no gradient through.
            kwargs: what Qwen3-VL's model takes (attention_mask, position_ids, pixel_values, image_grid_thw, ...).
        """
        kwargs.pop("labels", None)
        keep = kwargs.pop("logits_to_keep", 0)
        output = self.model(input_ids=input_ids, **kwargs)
        hidden = output.last_hidden_state
        logits = self.lm_head(hidden[:, -keep:] if keep else hidden)
        result = SegPolicyOutput(
            logits=logits, past_key_values=output.past_key_values, rope_deltas=getattr(output, "rope_deltas", None)
        )
        if seg_mask is None or not hasattr(self, "text_hidden_fcs"):
            return result
        states = self.text_hidden_fcs(hidden[seg_mask])
        result.seg_states = states.float()
        if sam_pixels is None:
            return result
        if pair_state is None or pair_frame is None:
            raise ValueError("sam_pixels came without pair_state and pair_frame: which state decodes which frame?")
        prompts = states[pair_state]
        if len(pair_state) == 0:  # a rank without [SEG] still uses every head parameter, or FSDP's reduce would differ
            prompts = self.text_hidden_fcs(hidden[:1, 0])
            pair_frame = torch.zeros(1, dtype=torch.long, device=hidden.device)
        segmenter = self.grounding_encoder
        # no gradient enters the frozen image encoder; the decoder's convolutions over the fine levels do train
        features = segmenter.encode(sam_pixels.to(next(segmenter.parameters()).dtype))
        masks, _ = segmenter.decode(features, pair_frame, prompts)
        if len(pair_state) == 0:
            result.logits = logits + 0.0 * masks.sum().to(logits.dtype)
            masks = masks[:0]
        result.mask_logits = masks.float()
        if detach_masks:
            result.detached_mask_logits = result.mask_logits
            if len(pair_state):
                alone = self.text_hidden_fcs(hidden[seg_mask].detach())
                result.detached_mask_logits = segmenter.decode(features, pair_frame, alone[pair_state])[0].float()
        return result
