"""The memory that propagation attends to, for many items with different keyframes at once.

Positions are *offsets* from each item's own keyframe: +s is s frames after it, -s before it. At step s of a pass
every item therefore sees memories at the same offsets, and one batch holds them all. Only in the backward pass do
items differ: it also sees the first forward memories, and an item whose keyframe is near the clip's end has fewer;
there a mask hides what an item has not.

Shape legend: n items, L memory tokens, m memory channels, C pointer width, HW positions of a memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rewards.segmenter.heads import HeadOutput


def encode_memory(model: Any, coarse: Tensor, head: HeadOutput, *, by_user: bool = False) -> Tensor:
    """(n, m, S/16, S/16): frame and mask fused, rounded to bfloat16 as the stock predictor stores them.

    ``by_user``: the masks answer a box, and are remembered as a user sees them, 0 or 1.
    """
    side = model.image_size
    masks = F.interpolate(head.logits[:, None], size=(side, side), mode="bilinear", align_corners=False)
    seen = (masks > 0).to(masks.dtype) if by_user else torch.sigmoid(masks)
    scaled = seen * model.sigmoid_scale_for_mem_enc + model.sigmoid_bias_for_mem_enc
    memory: Tensor = model.memory_encoder(coarse, scaled, skip_mask_sigmoid=True)["vision_features"]
    absent = (head.object_score <= 0).to(memory.dtype)
    memory = memory + absent[:, :, None, None] * model.no_obj_embed_spatial[:, :, None, None]
    return memory.to(torch.bfloat16).float()


@dataclass(frozen=True)
class MemoryTokens:
    """What n items attend to in one step."""

    tokens: Tensor
    """(L, n, m); the last ``num_pointer_tokens`` of L are object pointers cut into pieces."""
    positions: Tensor
    """(L, n, m)"""
    num_pointer_tokens: int
    visible: Tensor | None
    """(n, L) bool, or None where every item sees everything."""


class MemoryBank:
    """Memories and object pointers of B items by offset; forgets what no later step can see."""

    def __init__(self, model: Any, keyframes: Sequence[int], num_frames: int) -> None:
        self._model = model
        self._room = [num_frames - 1 - k for k in keyframes]
        self._spatial_reach: int = model.num_maskmem - 1
        self._pointer_reach: int = min(num_frames, model.max_obj_ptrs_in_encoder) - 1
        self._rows: dict[int, dict[int, int]] = {}
        self._memories: dict[int, Tensor] = {}
        self._pointers: dict[int, Tensor] = {}

    def add(self, offset: int, items: Sequence[int], memories: Tensor, pointers: Tensor) -> None:
        """Store (n, m, h, w) memories and (n, C) pointers of ``items`` at ``offset``, then forget."""
        self._rows[offset] = {item: row for row, item in enumerate(items)}
        self._memories[offset] = memories.flatten(2).permute(2, 0, 1)
        self._pointers[offset] = pointers
        for old in [o for o in self._memories if not _needed(o, offset, self._spatial_reach)]:
            del self._memories[old]
        for old in [o for o in self._pointers if not _needed(o, offset, self._pointer_reach)]:
            del self._pointers[old], self._rows[old]

    def read(self, items: Sequence[int], step: int, reverse: bool) -> MemoryTokens:
        """What ``items`` see at this step. The keyframe comes first, then the nearest frames of this pass."""
        model, n = self._model, len(items)
        spatial = [(0, self._spatial_reach)]
        for distance in range(self._spatial_reach, 0, -1):
            if (offset := self._remembered(items, step, distance, reverse)) is not None:
                spatial.append((offset, distance - 1))
        memories = [self._select(self._memories, offset, items, dim=1) for offset, _ in spatial]
        grid = self._grid_position(memories[0])
        positions = [(grid + model.maskmem_tpos_enc[slot]).expand(-1, n, -1) for _, slot in spatial]

        remembered = [(0, step)]
        for distance in range(1, self._pointer_reach + 1):
            if (offset := self._remembered(items, step, distance, reverse)) is not None:
                remembered.append((offset, distance))
        pointers = torch.stack([self._select(self._pointers, offset, items, dim=0) for offset, _ in remembered])
        tokens, token_positions = self._pointer_tokens(pointers, [distance for _, distance in remembered])

        repeats = [(o, len(grid)) for o, _ in spatial] + [(o, len(tokens) // len(remembered)) for o, _ in remembered]
        return MemoryTokens(
            torch.cat([*memories, tokens]),
            torch.cat([*positions, token_positions]),
            tokens.shape[0],
            self._visibility(items, repeats, tokens.device),
        )

    def _remembered(self, items: Sequence[int], step: int, distance: int, reverse: bool) -> int | None:
        """The offset ``distance`` frames back along this pass, if any item has a memory there; not the keyframe's."""
        offset = distance - step if reverse else step - distance
        if offset == 0 or offset not in self._rows or (not reverse and offset < 0):
            return None
        return offset if any(self._has(i, offset) for i in items) else None

    def _has(self, item: int, offset: int) -> bool:
        """Whether the frame at ``offset`` lies in the clip; one that was passed before it does."""
        return offset <= self._room[item]

    def _visibility(
        self, items: Sequence[int], repeats: Sequence[tuple[int, int]], device: torch.device
    ) -> Tensor | None:
        """(n, L) from (offset, number of tokens) in order."""
        seen = torch.tensor([[self._has(i, offset) for offset, _ in repeats] for i in items])
        if seen.all():
            return None
        return seen.repeat_interleave(torch.tensor([count for _, count in repeats]), dim=1).to(device)

    def _select(self, store: dict[int, Tensor], offset: int, items: Sequence[int], dim: int) -> Tensor:
        """Rows of ``items``; an item without a memory there gets zeros, which the mask hides.

        Another item's row would do as well, unless it is not finite: weight zero times NaN is NaN.
        """
        rows, device = self._rows[offset], store[offset].device
        found = store[offset].index_select(dim, torch.tensor([rows.get(i, 0) for i in items], device=device))
        without = [n for n, i in enumerate(items) if i not in rows]
        return found.index_fill(dim, torch.tensor(without, device=device), 0.0) if without else found

    def _grid_position(self, memory: Tensor) -> Tensor:
        """(HW, 1, m) sine encoding of a memory's positions."""
        side = self._model.sam_image_embedding_size
        blank = memory.new_zeros(1, memory.shape[-1], side, side)
        encoding: Tensor = self._model.memory_encoder.position_encoding(blank)
        return encoding.flatten(2).permute(2, 0, 1)

    def _pointer_tokens(self, pointers: Tensor, distances: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(P, n, C) pointers cut into C / m tokens each, with the sine encoding of their distance in frames."""
        from sam2.modeling.sam2_utils import get_1d_sine_pe

        count, n, width = pointers.shape
        pieces = width // self._model.mem_dim
        tokens = pointers.reshape(count, n, pieces, -1).permute(0, 2, 1, 3).flatten(0, 1)
        relative = torch.tensor(distances, device=pointers.device) / self._pointer_reach
        encoded = self._model.obj_ptr_tpos_proj(get_1d_sine_pe(relative, dim=width))
        positions = encoded[:, None].expand(-1, n, -1).repeat_interleave(pieces, dim=0)
        return tokens, positions


def _needed(offset: int, latest: int, reach: int) -> bool:
    """Whether a step after ``latest`` can see what lies at ``offset``, ``reach`` frames being seen on each side.

    The backward pass sees the frames that it passed and, near the keyframe, the first ones of the forward pass.
    """
    if offset == 0:
        return True
    if latest >= 0:
        return offset > latest - reach or offset < reach
    return latest <= offset < latest + reach
