"""The memory that propagation attends to, for many items with different keyframes at once.

Positions are *offsets* from each item's own keyframe: +s is s frames after it, -s before it. At step s of a pass
every item therefore sees memories at the same offsets, and one batch holds them all. Only in the backward pass do
items differ: it also sees the first forward memories, and an item whose keyframe is near the clip's end has fewer;
such items are grouped by what they have.

Shape legend: B items, n of them in a step, g in a group, L memory tokens, m memory channels, C pointer width, HW
positions of a memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rewards.segmenter.architecture import Architecture
from rewards.segmenter.features import on_device
from rewards.segmenter.heads import HeadOutput


def encode_memory(arch: Architecture, coarse: Tensor, head: HeadOutput, *, by_user: bool = False) -> Tensor:
    """(n, m, g, g): frame and mask fused, rounded to bfloat16 as the stock predictors store them.

    ``by_user``: the masks answer a box, and are remembered as a user sees them, 0 or 1.
    """
    rounded = arch.remember(coarse, head.logits, head.object_score > 0, by_user=by_user).to(torch.bfloat16)
    return rounded if torch.is_autocast_enabled(coarse.device.type) else rounded.float()


@dataclass(frozen=True)
class MemoryTokens:
    """What g items attend to in one step."""

    rows: Tensor | None
    """(g,) which of the step's items they are; None for all."""
    tokens: Tensor
    """(g, L, m); the last ``num_pointer_tokens`` of L are object pointers cut into pieces."""
    positions: Tensor
    """(L, m)"""
    num_pointer_tokens: int


@dataclass(frozen=True)
class Memory:
    """What the n items of a step attend to."""

    groups: list[MemoryTokens]
    order: Tensor | None
    """(n,) where each item is among the groups' one after another; None where there is one group."""


class MemoryBank:
    """Memories and object pointers of B items by offset; forgets what no later step can see."""

    def __init__(self, arch: Architecture, keyframes: Sequence[int], num_frames: int) -> None:
        """Reads the model's position encodings, so that it belongs inside the caller's autocast."""
        self._room = [num_frames - 1 - k for k in keyframes]
        self._spatial_reach = arch.num_memories - 1
        self._pointer_reach = min(num_frames, arch.num_pointers) - 1
        self._rows: dict[int, dict[int, int]] = {}
        self._memories: dict[int, Tensor] = {}
        self._pointers: dict[int, Tensor] = {}
        self._positions = arch.memory_positions()
        distances = torch.arange(num_frames, device=self._positions.device) / max(1, self._pointer_reach)
        self._pointer_positions = arch.pointer_positions(distances)

    def add(self, offset: int, items: Sequence[int], memories: Tensor, pointers: Tensor) -> None:
        """Store (n, m, h, w) memories and (n, C) pointers of ``items`` at ``offset``, then forget."""
        self._rows[offset] = {item: row for row, item in enumerate(items)}
        self._memories[offset] = memories.flatten(2).transpose(1, 2)
        self._pointers[offset] = pointers.to(memories.dtype).reshape(len(items), -1, memories.shape[1])
        for old in [o for o in self._memories if not _needed(o, offset, self._spatial_reach)]:
            del self._memories[old]
        for old in [o for o in self._pointers if not _needed(o, offset, self._pointer_reach)]:
            del self._pointers[old], self._rows[old]

    def read(self, items: Sequence[int], step: int, reverse: bool) -> Memory:
        """What ``items`` see at this step. The keyframe comes first, then the nearest frames of this pass."""
        seen: dict[tuple[int, ...], list[int]] = {}
        for row, item in enumerate(items):
            distances = [d for d in range(1, self._pointer_reach + 1) if self._remembers(item, step, d, reverse)]
            seen.setdefault(tuple(distances), []).append(row)
        device = self._positions.device
        if len(seen) == 1:
            (distances_of_all,) = seen
            return Memory([self._tokens(items, None, distances_of_all, step, reverse)], None)
        groups = [
            self._tokens([items[r] for r in rows], on_device(rows, device), distances, step, reverse)
            for distances, rows in seen.items()
        ]
        places = {row: place for place, row in enumerate(r for rows in seen.values() for r in rows)}
        return Memory(groups, on_device([places[row] for row in range(len(items))], device))

    def _tokens(
        self, items: Sequence[int], rows: Tensor | None, distances: Sequence[int], step: int, reverse: bool
    ) -> MemoryTokens:
        """Of items that remember the frames ``distances`` back along this pass, and their keyframe."""
        near = [d for d in reversed(distances) if d <= self._spatial_reach]
        frames = [(0, self._spatial_reach)] + [(_offset(step, d, reverse), d - 1) for d in near]
        memories = [self._select(self._memories, offset, items) for offset, _ in frames]
        positions = [self._positions[slot] for _, slot in frames]
        pointed = [(0, step)] + [(_offset(step, d, reverse), d) for d in distances]
        pointers = [self._select(self._pointers, offset, items) for offset, _ in pointed]
        pieces = pointers[0].shape[1]
        positions += [self._pointer_positions[distance].expand(pieces, -1) for _, distance in pointed]
        return MemoryTokens(rows, torch.cat(memories + pointers, 1), torch.cat(positions), pieces * len(pointers))

    def _remembers(self, item: int, step: int, distance: int, reverse: bool) -> bool:
        """Whether it has a memory ``distance`` frames back along this pass that is not the keyframe's."""
        offset = _offset(step, distance, reverse)
        known = offset != 0 and offset in self._rows and (reverse or offset > 0)
        return known and offset <= self._room[item]

    def _select(self, store: dict[int, Tensor], offset: int, items: Sequence[int]) -> Tensor:
        rows = [self._rows[offset][item] for item in items]
        found = store[offset]
        return found if rows == list(range(len(found))) else found.index_select(0, on_device(rows, found.device))


def _offset(step: int, distance: int, reverse: bool) -> int:
    return distance - step if reverse else step - distance


def _needed(offset: int, latest: int, reach: int) -> bool:
    """Whether a step after ``latest`` can see what lies at ``offset``, ``reach`` frames being seen on each side.

    The backward pass sees the frames that it passed and, near the keyframe, the first ones of the forward pass.
    """
    if offset == 0:
        return True
    if latest >= 0:
        return offset > latest - reach or offset < reach
    return latest <= offset < latest + reach
