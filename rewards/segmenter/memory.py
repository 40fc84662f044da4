"""The memory that propagation attends to, for many items with different keyframes at once.

Positions are *offsets* from each item's own keyframe: +s is s frames after it, -s before it. An item's *walk* takes it
forward to the end of its video, then backward to the start, one frame a step: nobody waits for a neighbour to turn, so
that batches stay full. What a step remembers is stored by the step, whatever offsets the items had there.

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
    """Memories and object pointers of B items by step; forgets what no later step can see."""

    def __init__(self, arch: Architecture, room: Sequence[int], num_frames: int) -> None:
        """Reads the model's position encodings, so that it belongs inside the caller's autocast.

        ``room``: (B,) frames after each keyframe. ``num_frames``: of the longest video; all have one `pointer_frames`.
        """
        self._room = list(room)
        self._spatial_reach = arch.num_memories - 1
        self._pointer_reach = pointer_frames(arch, num_frames) - 1
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

    def offset(self, item: int, step: int) -> int:
        """Where a step of its walk takes ``item``."""
        room = self._room[item]
        return step if step <= room else room - step

    def add(self, step: int, items: Sequence[int], memories: Tensor, pointers: Tensor) -> None:
        """Store (n, m, h, w) memories and (n, C) pointers of ``items`` at ``step``, then forget."""
        self._rows[step] = {item: row for row, item in enumerate(items)}
        self._memories[step] = memories.flatten(2).transpose(1, 2)
        self._pointers[step] = pointers.to(memories.dtype).reshape(len(items), self._pieces, -1)
        for old in [s for s in self._memories if not _needed(s, step, self._spatial_reach)]:
            del self._memories[old]
        for old in [s for s in self._pointers if not _needed(s, step, self._pointer_reach)]:
            del self._pointers[old], self._rows[old]

    def read(self, items: Sequence[int], step: int) -> Memory:
        """What ``items`` see at this step. The keyframe comes first, then the nearest frames of this pass."""
        frames, pointed = [], []
        for item in items:
            seen = {d: s for d in range(1, self._pointer_reach + 1) if (s := self._back(item, step, d)) is not None}
            near = [(seen[d], d - 1) for d in reversed(seen) if d <= self._spatial_reach]
            frames.append([(0, self._spatial_reach), *near])
            pointed.append([(0, abs(self.offset(item, step))), *((s, d) for d, s in seen.items())])
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
        """(N, ., m) tokens without and with their positions, of the N (step, position) that ``items`` see in turn.

        One upload and few kernels, however many items and frames: a step on a GPU waits for the host's launches.
        """
        steps = list(dict.fromkeys(step for one in seen for step, _ in one))
        start = dict(zip(steps, accumulate((len(store[s]) for s in steps), initial=0), strict=False))
        found = [start[s] + self._rows[s][item] for item, one in zip(items, seen, strict=True) for s, _ in one]
        places = [place for one in seen for _, place in one]
        rows, places_there = on_device(found + places, positions.device).chunk(2)
        tokens = torch.cat([store[s] for s in steps]).index_select(0, rows)
        return tokens, (tokens + positions.index_select(0, places_there)).to(tokens.dtype)

    def _back(self, item: int, step: int, distance: int) -> int | None:
        """The step of its memory ``distance`` frames back along this pass; None where it has none, or the keyframe's.

        The backward pass sees the frames that it passed and, near the keyframe, the first ones of the forward pass.
        """
        here = self.offset(item, step)
        there = here + distance if here < 0 else here - distance
        if here < 0:
            return None if there == 0 or there > self._room[item] else there if there > 0 else step - distance
        return there if there > 0 else None


def pointer_frames(arch: Architecture, num_frames: int) -> int:
    """Frames whose object pointer is seen: distances to them are told as shares of this."""
    return min(num_frames, arch.num_pointers)


def _side_by_side(memories: Tensor, pointers: Tensor, n: int) -> Tensor:
    """Those of n items that see as many: (n k, HW, m) and (n p, P, m) -> (n, L, m)."""
    channels = memories.shape[-1]
    return torch.cat([memories.reshape(n, -1, channels), pointers.reshape(n, -1, channels)], dim=1)


def _in_turn(memories: Sequence[Tensor], pointers: Sequence[Tensor]) -> list[Tensor]:
    """Each item's memories, then its pointers."""
    return [part for pair in zip(memories, pointers, strict=True) for part in pair]


def _needed(step: int, latest: int, reach: int) -> bool:
    """Whether a step after ``latest`` can see what was stored at ``step``, ``reach`` frames being seen on each side:
    the last ones and, from behind the keyframe, those that follow it."""
    return step > latest - reach or step < max(1, reach)
