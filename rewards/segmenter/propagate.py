"""Masks on every frame of a clip from one prompted keyframe per item, batched over items.

Same semantics as the stock predictors (sam2's ``SAM2VideoPredictor``, transformers' ``Sam3TrackerVideoModel``) with one
object and one prompted frame per state: forward from the keyframe to the end, then backward to the start, the backward
pass still seeing forward memories. A ``[SEG]`` state is injected in every frame (SPEC 2.2), boxes and points only at
the keyframe. Items may have videos of their own: frames that are taken from the same features.

Shape legend: B items (a rollout, or a box of one), n of them in one step, T frames, h x w logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rewards.segmenter.architecture import Architecture
from rewards.segmenter.attention import attend_to_memory
from rewards.segmenter.features import FeatureSource, Levels, on_device, upload
from rewards.segmenter.heads import (
    HeadOutput,
    Prompt,
    embed_boxes,
    embed_nothing,
    embed_points,
    embed_states,
    run_heads,
)
from rewards.segmenter.memory import MemoryBank, encode_memory, pointer_frames
from rewards.segmenter.pieces import EAGER, Pieces, rotations


@dataclass(frozen=True)
class Step:
    """Predictions for n items, each on its own frame."""

    items: list[int]
    frames: list[int]
    head: HeadOutput


@dataclass(frozen=True)
class PromptBatch:
    """Prompts of B items: states (B, C), boxes (B, 4), or both for every item; or points (B, 2). Boxes and points in
    pixels of the encoder's input."""

    states: Tensor | None = None
    boxes: Tensor | None = None
    points: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.states is None and self.boxes is None) == (self.points is None):
            raise ValueError("propagation takes either states or boxes, or both, or points alone")

    def __len__(self) -> int:
        return next(len(given) for given in (self.states, self.boxes, self.points) if given is not None)

    def at_keyframe(self, arch: Architecture, device: torch.device) -> Prompt | None:
        """Of boxes, with the states where both are given, or of points; states alone are in every frame alike."""
        if self.boxes is not None:
            return embed_boxes(arch, upload(self.boxes, device), self.states)
        return None if self.points is None else embed_points(arch, upload(self.points, device))

    def while_tracking(self, arch: Architecture, device: torch.device) -> Prompt:
        return embed_nothing(arch, len(self), device) if self.states is None else embed_states(arch, self.states)


class Propagation:
    """One run over one clip; iterate :meth:`steps`."""

    def __init__(
        self,
        arch: Architecture,
        source: FeatureSource,
        keyframes: Sequence[int],
        prompts: PromptBatch,
        *,
        videos: Sequence[Sequence[int]] | None = None,
        gate: bool = True,
        max_batch: int = 64,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        pieces: Pieces = EAGER,
    ) -> None:
        self._lengths = [source.num_frames if videos is None else len(videos[i]) for i in range(len(keyframes))]
        for k, length in zip(keyframes, self._lengths, strict=True):
            if not 0 <= k < length:
                raise ValueError(f"keyframe {k} lies outside the clip's 0..{length - 1}")
        if len({pointer_frames(arch, length) for length in self._lengths}) > 1:
            raise ValueError(f"videos of {sorted(set(self._lengths))} frames cannot be propagated together")
        self._arch, self._source, self._device = arch, source, source.position.device
        self._keyframes, self._videos = list(keyframes), videos
        self._gate, self._max_batch, self._autocast = gate, max_batch, autocast
        self._pieces = pieces
        with autocast():
            room = [length - 1 - k for k, length in zip(keyframes, self._lengths, strict=True)]
            self._bank = MemoryBank(arch, room, max(self._lengths))
            self._tracking = prompts.while_tracking(arch, self._device)
            self._given = prompts.at_keyframe(arch, self._device)
            self._dense_position = arch.dense_position()
            self._turns = rotations(arch.rotary(source.position))

    def steps(self) -> Iterator[Step]:
        """Every (item, frame) once: keyframes, then each item's walk, forward and backward. Follows the caller's
        gradient mode."""
        for step in range(max(self._lengths)):
            yield from self._run(step, [i for i, length in enumerate(self._lengths) if step < length])

    def _run(self, step: int, active: list[int]) -> Iterator[Step]:
        """A step of all items' walks, in batches; their memories enter the bank together."""
        memories, pointers = [], []
        for start in range(0, len(active), self._max_batch):
            items = active[start : start + self._max_batch]
            with self._autocast():
                head, remembered = self._compute(step, items)
            memories.append(remembered)
            pointers.append(head.pointer.float())
            yield Step(items, self._frames(step, items), head)
        self._bank.add(step, active, torch.cat(memories), torch.cat(pointers))

    def _compute(self, step: int, items: list[int]) -> tuple[HeadOutput, Tensor]:
        """What the heads say of n items at ``step``, and their (n, m, g, g) memories."""
        if step == 0:
            levels = self._levels(step, items)
            prompt = (self._tracking if self._given is None else self._given).of(on_device(items, self._device))
            head = self._heads(run_heads, self._arch.without_memory(levels[2]), levels, prompt)
            return head, encode_memory(self._arch, levels[2], head, by_user=self._given is not None)
        n, pieces = len(items), self._pieces
        items = items + items[-1:] * (pieces.smallest - n)
        levels = self._levels(step, items)
        memory = self._bank.read(items, step)
        fused = attend_to_memory(self._arch, levels[2], self._source.position, self._turns, memory, pieces)
        head = self._heads(pieces.run_heads, fused, levels, self._tracking.of(on_device(items, self._device)))
        remembered = pieces.encode_memory(self._arch, levels[2], head)
        return (head, remembered) if len(items) == n else (head.first(n), remembered[:n])

    def _heads(self, run: Callable[..., HeadOutput], image: Tensor, levels: Levels, prompt: Prompt) -> HeadOutput:
        return run(self._arch, image, levels, prompt, gate=self._gate, position=self._dense_position)

    def _levels(self, step: int, items: list[int]) -> Levels:
        return self._source.gather(self._rows(items, self._frames(step, items)))

    def _frames(self, step: int, items: list[int]) -> list[int]:
        return [self._keyframes[i] + self._bank.offset(i, step) for i in items]

    def _rows(self, items: list[int], frames: list[int]) -> list[int]:
        """Of the source, for each item's frame."""
        if self._videos is None:
            return frames
        return [self._videos[i][t] for i, t in zip(items, frames, strict=True)]
