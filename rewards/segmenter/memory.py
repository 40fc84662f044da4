"""The memory that propagation attends to, for many items with different keyframes at once.

Positions are *offsets* from each item's own keyframe: +s is s frames after it, -s before it. At step s of a pass
every item therefore sees memories at the same offsets, and one batch holds them all. Only in the backward pass do
items differ: it also sees the first forward memories, and an item whose keyframe is near the clip's end has fewer.

Shape legend: B items, n of them in a step, L memory tokens of one, m memory channels, C pointer width, HW positions of
a memory, P pieces of m channels into which a pointer is cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from rewards.segmenter.architecture import Architecture
from rewards.segmenter.features import on_device, upload
from rewards.segmenter.heads import HeadOutput


def encode_memory(arch: Architecture, coarse: Tensor, head: HeadOutput, *, by_user: bool = False) -> Tensor:
    """(n, m, g, g): frame and mask fused, rounded to bfloat16 as the stock predictors store them.

    ``by_user``: the masks answer a box, and are remembered as a user sees them, 0 or 1.
    """
    rounded = arch.remember(coarse, head.logits, head.object_score > 0, by_user=by_user).to(torch.bfloat16)
    return rounded if torch.is_autocast_enabled(coarse.device.type) else rounded.float()


@dataclass(frozen=True)
class Memory:
    """What the n items of a step attend to: each the memories that it sees, then its object pointers in pieces."""

    tokens: Tensor
    """(n, L, m) where all remember as much, else (1, sum of L, m): item after item."""
    placed: Tensor
    """The same with position encodings."""
    rows: Tensor
    """(L,) or (sum of L,): a token's position in its frame, by which it is turned; HW where it has none."""
    lengths: list[int]
    """(n,) L of each."""
    starts: Tensor | None
    """(n + 1,) int32: where each item's tokens begin, and where the last end; None where all remember as much."""


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
        _, self._size, channels = self._positions.shape
        device = self._positions.device
        distances = torch.arange(num_frames, device=device) / max(1, self._pointer_reach)
        self._pointer_positions = arch.pointer_positions(distances)[:, None]
        self._pieces = arch.width // channels
        self._turned = torch.arange(self._size, device=device).repeat(arch.num_memories)
        self._still = torch.full((self._pieces * (self._pointer_reach + 1),), self._size, device=device)

    def add(self, offset: int, items: Sequence[int], memories: Tensor, pointers: Tensor) -> None:
        """Store (n, m, h, w) memories and (n, C) pointers of ``items`` at ``offset``, then forget."""
        self._rows[offset] = {item: row for row, item in enumerate(items)}
        self._memories[offset] = memories.flatten(2).transpose(1, 2)
        self._pointers[offset] = pointers.to(memories.dtype).reshape(len(items), self._pieces, -1)
        for old in [o for o in self._memories if not _needed(o, offset, self._spatial_reach)]:
            del self._memories[old]
        for old in [o for o in self._pointers if not _needed(o, offset, self._pointer_reach)]:
            del self._pointers[old], self._rows[old]

    def read(self, items: Sequence[int], step: int, reverse: bool) -> Memory:
        """What ``items`` see at this step. The keyframe comes first, then the nearest frames of this pass."""
        frames, pointed = [], []
        for item in items:
            distances = [d for d in range(1, self._pointer_reach + 1) if self._remembers(item, step, d, reverse)]
            near = [d for d in reversed(distances) if d <= self._spatial_reach]
            frames.append([(0, self._spatial_reach), *((_offset(step, d, reverse), d - 1) for d in near)])
            pointed.append([(0, step), *((_offset(step, d, reverse), d) for d in distances)])
        turned, still = [len(one) * self._size for one in frames], [len(one) * self._pieces for one in pointed]
        lengths = [a + b for a, b in zip(turned, still, strict=True)]
        memories = self._gather(self._memories, self._positions, items, frames)
        pointers = self._gather(self._pointers, self._pointer_positions, items, pointed)
        if len(set(lengths)) == 1:
            tokens, placed = (_side_by_side(a, b, len(items)) for a, b in zip(memories, pointers, strict=True))
            rows = torch.cat([self._turned[: turned[0]], self._still[: still[0]]])
            return Memory(tokens, placed, rows, lengths, None)
        tokens, placed = (
            torch.cat(_in_turn(a.flatten(0, 1).split(turned), b.flatten(0, 1).split(still)))[None]
            for a, b in zip(memories, pointers, strict=True)
        )
        rows = torch.cat(_in_turn([self._turned[:t] for t in turned], [self._still[:t] for t in still]))
        starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        return Memory(tokens, placed, rows, lengths, upload(starts, rows.device))

    def _gather(
        self,
        store: dict[int, Tensor],
        positions: Tensor,
        items: Sequence[int],
        seen: Sequence[Sequence[tuple[int, int]]],
    ) -> tuple[Tensor, Tensor]:
        """(N, ., m) tokens without and with their positions, of the N (offset, position) that ``items`` see in turn.

        One upload and few kernels, however many items and frames: a step on a GPU waits for the host's launches.
        """
        offsets = list(dict.fromkeys(offset for one in seen for offset, _ in one))
        start = dict(zip(offsets, accumulate((len(store[o]) for o in offsets), initial=0), strict=False))
        found = [start[o] + self._rows[o][item] for item, one in zip(items, seen, strict=True) for o, _ in one]
        places = [place for one in seen for _, place in one]
        rows, places_there = on_device(found + places, positions.device).chunk(2)
        tokens = torch.cat([store[o] for o in offsets]).index_select(0, rows)
        return tokens, (tokens + positions.index_select(0, places_there)).to(tokens.dtype)

    def _remembers(self, item: int, step: int, distance: int, reverse: bool) -> bool:
        """Whether it has a memory ``distance`` frames back along this pass that is not the keyframe's."""
        offset = _offset(step, distance, reverse)
        known = offset != 0 and offset in self._rows and (reverse or offset > 0)
        return known and offset <= self._room[item]


def _side_by_side(memories: Tensor, pointers: Tensor, n: int) -> Tensor:
    """Those of n items that see as many: (n k, HW, m) and (n p, P, m) -> (n, L, m)."""
    channels = memories.shape[-1]
    return torch.cat([memories.reshape(n, -1, channels), pointers.reshape(n, -1, channels)], dim=1)


def _in_turn(memories: Sequence[Tensor], pointers: Sequence[Tensor]) -> list[Tensor]:
    """Each item's memories, then its pointers."""
    return [part for pair in zip(memories, pointers, strict=True) for part in pair]


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
