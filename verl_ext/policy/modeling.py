"""Qwen3-VL that also returns the projected ``[SEG]`` states and the masks that SAM 2 draws from them.

Shape legend: B sequences, L tokens, N ``[SEG]`` tokens, F frames, M (state, frame) pairs, C prompt width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLCausalLMOutputWithPast,
    Qwen3VLForConditionalGeneration,
)

from verl_ext.packing.forward import Scoring, row_log_probs, row_states
from verl_ext.packing.row import Row

if TYPE_CHECKING:
    from rewards.segmenter import Segmenter
    from rewards.segmenter.features import Features


@dataclass
class SegPolicyOutput(Qwen3VLCausalLMOutputWithPast):  # type: ignore[misc]
    """Adds to the language model's output:

    seg_states: (N, C) float32, in the order of the True entries of ``seg_mask``.
    mask_logits: (M, h, w) float32, one per (state, frame) pair; None where no pairs were asked for.
    detached_mask_logits: the same values, whose gradient ends at the projection; None unless asked for.
    log_probs, entropy: float32, of a row's scored tokens; None without a row.
    """

    seg_states: torch.Tensor | None = None
    mask_logits: torch.Tensor | None = None
    detached_mask_logits: torch.Tensor | None = None
    log_probs: torch.Tensor | None = None
    entropy: torch.Tensor | None = None


class SegPolicyForConditionalGeneration(Qwen3VLForConditionalGeneration):  # type: ignore[misc]
    """One forward does it all, so that FSDP's hooks see every parameter that is used."""

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        seg_mask: torch.Tensor | None = None,
        sam_pixels: torch.Tensor | None = None,
        pair_state: torch.Tensor | None = None,
        pair_frame: torch.Tensor | None = None,
        row: Row | None = None,
        scoring: Scoring | None = None,
        seg_rows: torch.Tensor | None = None,
        sam_features: Callable[[Segmenter], Features] | None = None,
        pair_parts: Sequence[torch.Tensor] | None = None,
        seg_noise: torch.Tensor | None = None,
        detach_masks: bool = False,
        **kwargs: Any,
    ) -> SegPolicyOutput:
        """
        Args:
            input_ids: (B, L) int64, or (1, total) packed; None with a row.
            seg_mask: bool, like ``input_ids``: the ``[SEG]`` tokens that the policy sampled. None: language model only.
            sam_pixels: (F, 3, S, S) float, ImageNet-normalised frames for SAM 2.
            pair_state, pair_frame: (M,) int64 indices into the N states and F frames.
            row, scoring: a row of groups in the place of ``input_ids``; gives ``log_probs`` and no logits.
            seg_rows: (N,) int64, the row's ``[SEG]`` tokens in the place of ``seg_mask``.
            sam_features: makes the features of the F frames; in the place of ``sam_pixels``.
            pair_parts: see :meth:`draw`.
            seg_noise: (N, C) float, added to the states before masks are decoded from them.
            detach_masks: also decode every pair from states that the language model gets no gradient through.
            kwargs: what Qwen3-VL's model takes (attention_mask, position_ids, pixel_values, image_grid_thw, ...).
        """
        if row is not None and scoring is not None:
            hidden = row_states(self, row)
            log_probs, entropy = row_log_probs(self, hidden, row, scoring)
            result = SegPolicyOutput(log_probs=log_probs, entropy=entropy)
            seg_hidden = None if seg_rows is None else hidden[seg_rows]
            spare = hidden[:1]
        else:
            kwargs.pop("labels", None)
            keep = kwargs.pop("logits_to_keep", 0)
            output = self.model(input_ids=input_ids, **kwargs)
            hidden = output.last_hidden_state
            logits = self.lm_head(hidden[:, -keep:] if keep else hidden)
            result = SegPolicyOutput(
                logits=logits, past_key_values=output.past_key_values, rope_deltas=getattr(output, "rope_deltas", None)
            )
            seg_hidden = None if seg_mask is None else hidden[seg_mask]
            spare = hidden[:1, 0]
        if seg_hidden is None or not hasattr(self, "text_hidden_fcs"):
            return result
        if sam_pixels is not None:
            pixels = sam_pixels.to(next(self.grounding_encoder.parameters()).dtype)
            sam_features = partial(_encoded, pixels)
        if sam_features is None:
            result.seg_states = self.text_hidden_fcs(seg_hidden).float()
            return result
        if pair_state is None or pair_frame is None:
            raise ValueError("frames came without pair_state and pair_frame: which state decodes which frame?")
        states, masks, unused = self.draw(
            seg_hidden, spare, sam_features, pair_state, pair_frame, pair_parts, seg_noise
        )
        if unused is not None:
            for name in ("logits", "log_probs"):
                if (value := getattr(result, name)) is not None:
                    setattr(result, name, value + unused.to(value.dtype))
        result.seg_states, result.mask_logits = states, masks
        if detach_masks:
            alone = (seg_hidden.detach(), spare, sam_features, pair_state, pair_frame, pair_parts)
            result.detached_mask_logits = masks if unused is not None else self.draw(*alone)[1]
        return result

    def draw(
        self,
        seg_hidden: torch.Tensor,
        any_hidden: torch.Tensor,
        sam_features: Callable[[Segmenter], Features],
        pair_state: torch.Tensor,
        pair_frame: torch.Tensor,
        pair_parts: Sequence[torch.Tensor] | None = None,
        noise: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """The head on N ``[SEG]`` tokens of any number of sequences; within this module's forward (FSDP).

        Args:
            seg_hidden: (N, d) hidden states of the ``[SEG]`` tokens.
            any_hidden: (1, d) a hidden state of whatever token.
            pair_parts: the M pairs in groups of indices; each group is one batch for the decoder. Rounding depends on
                what shares a batch: groups that two passes have in common come out equal to the last bit.
            noise: (N, C), added to what is decoded; the states that are returned are without it.
        Returns:
            (N, C) float32 states, (M, h, w) float32 mask logits, and a zero that must be added to the loss where there
            is no pair: a rank without ``[SEG]`` still uses every head parameter, or FSDP's reduce would differ.
        """
        segmenter = self.grounding_encoder
        states = self.text_hidden_fcs(seg_hidden)
        features = sam_features(segmenter)
        if len(pair_state) == 0:
            first = torch.zeros(1, dtype=torch.long, device=seg_hidden.device)
            masks, _ = segmenter.decode(features, first, self.text_hidden_fcs(any_hidden))
            return states.float(), masks[:0].float(), 0.0 * masks.sum()
        prompts = states if noise is None else states + noise.to(states.dtype)
        parts = [p for p in pair_parts if len(p)] if pair_parts is not None else []
        if len(parts) < 2:
            masks, _ = segmenter.decode(features, pair_frame, prompts[pair_state])
        else:
            drawn = [segmenter.decode(features, pair_frame[p], prompts[pair_state[p]])[0] for p in parts]
            masks = torch.cat(drawn)[torch.cat(parts).argsort()]
        return states.float(), masks.float(), None


def _encoded(pixels: torch.Tensor, segmenter: Segmenter) -> Features:
    return segmenter.encode(pixels)
