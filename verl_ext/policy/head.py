"""The segmentation head: ``text_hidden_fcs`` and SAM 2, with the released checkpoints' parameter names.

VideoSEG-O3, section on the model (SPEC 2.2): Linear d->d, ReLU, Linear d->C projects the last-layer hidden state at a
``[SEG]`` position; SAM 2 decodes it. Names: ``text_hidden_fcs.0|2.*`` and ``grounding_encoder.sam2_model.*``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from rewards.segmenter import SegmenterConfig

PROJECTION_PREFIX = "text_hidden_fcs."
HEAD_PREFIXES = (PROJECTION_PREFIX, "grounding_encoder.")
"""Parameters under these names belong to the head: never sent to vLLM, never part of the reference policy."""

DECODER_PREFIXES = (
    "grounding_encoder.sam2_model.sam_prompt_encoder.",
    "grounding_encoder.sam2_model.sam_mask_decoder.",
    "grounding_encoder.sam3_model.prompt_encoder.",
    "grounding_encoder.sam3_model.mask_decoder.",
)
"""What of the segmenter is trained, and synchronised to the segmenter pool after each update."""


def is_head_parameter(name: str) -> bool:
    return name.startswith(HEAD_PREFIXES)


def build_projection(hidden_size: int, prompt_width: int) -> nn.Sequential:
    """``text_hidden_fcs``: (N, hidden_size) -> (N, prompt_width)."""
    return nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, prompt_width))


def attach_head(module: nn.Module, config: SegmenterConfig, hidden_size: int) -> None:
    """Give ``module`` the head's submodules (randomly initialised) and freeze what SAM 2 keeps frozen."""
    from rewards.segmenter import Segmenter

    module.text_hidden_fcs = build_projection(hidden_size, config.prompt_width)
    module.grounding_encoder = Segmenter(config)
    freeze_untrained(module.grounding_encoder)
    hide_tables_from_fsdp(module.grounding_encoder)


class WeightTable(nn.Module):
    """An ``nn.Embedding`` that is read through ``.weight`` (by SAM 3 also called, beside that)."""

    weight: nn.Parameter

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return nn.functional.embedding(rows, self.weight)


def hide_tables_from_fsdp(segmenter: nn.Module) -> None:
    """SAM 2 reads its learned tokens as ``table.weight``, past FSDP's forward hooks. verl (0.9.1, fsdp2) shards every
    ``nn.Embedding`` on its own, so such a read would meet a shard; as plain modules they belong to the root's group.
    """
    for module in segmenter.modules():
        if type(module) is nn.Embedding:
            object.__setattr__(module, "__class__", WeightTable)


def freeze_untrained(segmenter: nn.Module) -> None:
    """SAM 2's image encoder and memory stay frozen; the prompt encoder and mask decoder train (SPEC 2.2).

    The decoder's convolutions over the fine levels (conv_s0, conv_s1) train as well. SAM 2 applies them while it
    encodes: frames are encoded with gradients on, and again after each change of the decoder (the pool's cache too).
    """
    for p in segmenter.parameters():
        p.requires_grad_(False)
    for p in segmenter.trainable_parameters():  # type: ignore[operator]
        p.requires_grad_(True)


def decoder_items(named: Iterator[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """The (name under the segmenter's model, tensor) pairs that the segmenter pool needs after an update."""
    for name, tensor in named:
        if name.startswith(DECODER_PREFIXES):
            yield name.split(".", 2)[2], tensor
