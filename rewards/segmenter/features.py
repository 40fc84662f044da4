"""What the image encoder makes of frames, and where propagation takes it from.

Shape legend: F frames, n items, S side of the encoder's input.
Levels, finest first: (F, d/8, S/4, S/4), (F, d/4, S/8, S/8), (F, d, S/16, S/16). Frozen levels are those before the
mask decoder's projections: (F, d, S/4, S/4), (F, d, S/8, S/8), (F, d, S/16, S/16).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Levels = tuple[Tensor, Tensor, Tensor]
"""Two high-resolution maps for the mask decoder and the map that carries memory; see the module's legend."""


class FeatureSource(Protocol):
    """A video for propagation: features of any frame on demand, so that a long clip need not be resident."""

    @property
    def num_frames(self) -> int: ...

    @property
    def position(self) -> Tensor:
        """(1, d, S/16, S/16) positional encoding of the coarsest level; the same for every frame."""
        ...

    def gather(self, frames: Sequence[int]) -> Levels:
        """Levels of n frames, repeats allowed."""
        ...


@dataclass(frozen=True)
class Features:
    """Features of F frames, all in memory."""

    levels: Levels
    position: Tensor

    @property
    def num_frames(self) -> int:
        return self.levels[0].shape[0]

    def gather(self, frames: Sequence[int] | Tensor) -> Levels:
        index = frames if isinstance(frames, Tensor) else on_device(frames, self.levels[0].device)
        fine, middle, coarse = (level[index] for level in self.levels)
        return fine, middle, coarse

    def split(self) -> list[Levels]:
        """F single-frame levels that own their memory, so that one can be freed without the others."""
        fine, middle, coarse = self.levels
        return [
            (fine[i : i + 1].clone(), middle[i : i + 1].clone(), coarse[i : i + 1].clone())
            for i in range(self.num_frames)
        ]


def on_device(values: Sequence[int], device: torch.device) -> Tensor:
    """(N,) int64, copied behind what a GPU is doing: a copy from ordinary memory would wait for all of it."""
    return upload(torch.tensor(list(values), dtype=torch.long), device)


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on ``device``, without waiting for a GPU."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def concat_levels(parts: Sequence[Levels]) -> Levels:
    """Levels of several groups of frames, one after another."""
    return (
        torch.cat([p[0] for p in parts]),
        torch.cat([p[1] for p in parts]),
        torch.cat([p[2] for p in parts]),
    )
