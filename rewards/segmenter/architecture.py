"""What decoding and propagation need of a segmenter's model: the one interface behind which SAM 2 and SAM 3 stand.

A further family is one file: a class with these members, a function that builds it, and a line in ``families.py``.

Shape legend: F frames, n items, C prompt width, d width of features, m memory channels, S side of the encoder's input,
g side of the coarsest level, HW = g * g, K candidate masks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from rewards.segmenter.features import Levels

Frames = Sequence[Image.Image | NDArray[np.uint8]]
Projection = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Attention:
    """The four projections of one attention; a single head."""

    q: Projection
    k: Projection
    v: Projection
    out: Projection


@dataclass(frozen=True)
class MemoryLayer:
    """One layer of memory attention: over the frame itself, over memory, then a feed-forward network."""

    norms: tuple[Projection, Projection, Projection]
    over_frame: Attention
    over_memory: Attention
    feed_forward: Projection


@dataclass(frozen=True)
class RawMasks:
    """What a mask decoder says about n items before one of its candidates is chosen."""

    candidates: Tensor
    """(n, K, h, w)"""
    ious: Tensor
    """(n, K) predicted."""
    tokens: Tensor
    """(n, K or 1, C), from which object pointers are made."""
    object_score: Tensor
    """(n, 1) logit."""


class Architecture(Protocol):
    """A promptable video segmenter with a memory; methods follow the caller's gradient mode and autocast."""

    model: Any

    @property
    def attribute(self) -> str:
        """Name under which a segmenter holds the model: its tensors' prefix in checkpoints."""
        ...

    @property
    def decoder_parts(self) -> tuple[str, ...]:
        """Modules of the model that reinforcement learning trains: prompt encoder and mask decoder."""
        ...

    @property
    def image_size(self) -> int:
        """S."""
        ...

    @property
    def width(self) -> int:
        """C."""
        ...

    @property
    def feature_width(self) -> int:
        """d, of the frozen levels."""
        ...

    @property
    def grid(self) -> int:
        """g; the other levels, and mask logits, have four times and twice that."""
        ...

    @property
    def num_memories(self) -> int:
        """Frames whose memory is seen, the keyframe's among them."""
        ...

    @property
    def num_pointers(self) -> int:
        """Frames whose object pointer is seen, the keyframe's among them."""
        ...

    def resize(self, frames: Frames) -> Tensor:
        """F frames -> (F, S, S, 3) uint8 on the CPU; the aspect ratio is not kept."""
        ...

    def normalise(self, frames: Tensor) -> Tensor:
        """(F, S, S, 3) uint8 of any device -> (F, 3, S, S) float32 there."""
        ...

    def frozen_levels(self, pixels: Tensor) -> Levels:
        """(F, 3, S, S) -> levels that no training of the decoder changes."""
        ...

    def project(self, frozen: Levels) -> Levels:
        """The mask decoder's own convolutions over the fine levels."""
        ...

    def frame_position(self, like: Tensor) -> Tensor:
        """(1, d, g, g) position encoding of the coarsest level."""
        ...

    def without_memory(self, coarse: Tensor) -> Tensor:
        """(n, d, g, g) features of frames that remember nothing."""
        ...

    def embed_points(self, coords: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(n, t, 2) pixels of the input with (n, t) labels -> (n, t + 1, C) sparse and (n, C, g, g) dense prompts."""
        ...

    def dense_position(self) -> Tensor:
        """(1, C, g, g) for the mask decoder."""
        ...

    def decode(self, image: Tensor, levels: Levels, sparse: Tensor, dense: Tensor, pe: Tensor, many: bool) -> RawMasks:
        """``many``: three candidates, else the single mask that a box gets."""
        ...

    def pointers(self, tokens: Tensor, seen: Tensor) -> Tensor:
        """(n, C) chosen tokens and (n, 1) 0 or 1, is the object in the frame -> (n, C) object pointers."""
        ...

    def remember(self, coarse: Tensor, logits: Tensor, seen: Tensor, *, by_user: bool) -> Tensor:
        """(n, m, g, g) memories of (n, h, w) mask logits; ``by_user``: masks that answer a box are stored as 0 or 1."""
        ...

    def memory_positions(self) -> Tensor:
        """(num_memories, HW, m): of a memory 1, 2, ... frames back, the keyframe's last."""
        ...

    def pointer_positions(self, distances: Tensor) -> Tensor:
        """(P,) distances in frames over the farthest -> (P, m)."""
        ...

    def memory_layers(self) -> tuple[list[MemoryLayer], Projection]:
        """The layers of memory attention and the norm behind them."""
        ...

    def rotary(self, like: Tensor) -> Tensor:
        """(HW, d / 2) complex64 rotations of the frame's positions, on the device of ``like``."""
        ...

    def blocks(self) -> Sequence[nn.Module]:
        """The image encoder's blocks, which can be compiled one by one."""
        ...


@dataclass(frozen=True)
class Family:
    """How a family's model is made."""

    build: Callable[[Any], nn.Module]
    """`SegmenterConfig` -> the model with seeded random weights, in eval mode, on the CPU."""
    wrap: Callable[[Any], Architecture]
    load: Callable[[nn.Module, Path], None]
    """Fill the model from a file, strictly; raises `DataError` that names the tensors which do not fit."""
    options: Mapping[str, Any]
    """Dotted option of the model -> the value that decoding and propagation rely on."""
