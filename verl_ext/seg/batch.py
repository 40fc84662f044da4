"""From a micro-batch's episodes to the tensors that the segmentation head needs.

Shape legend: B sequences, N ``[SEG]`` tokens in all, F distinct frames, M (state, frame) pairs, S SAM 2's input size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from rollout.types import Sample

VIDEO, KEYFRAME = 0, 1
"""Kinds of a pair: an initial spatial frame, or the keyframe that the turn was shown (SPEC 2.2)."""


@dataclass
class SegBatch:
    """Which ``[SEG]`` tokens there are and which frames each of them draws."""

    positions: list[list[int]]
    """Per sequence: positions of its ``[SEG]`` tokens in ``input_ids``, in order."""
    frames: list[tuple[Sample, int]] = field(default_factory=list)
    """The F distinct (clip, frame) that are decoded."""
    pairs: list[tuple[int, int, int, int]] = field(default_factory=list)
    """M x (state index, frame index, kind, sequence)."""
    samples: list[Sample] = field(default_factory=list)
    """Per sequence: what it was asked. Two questions about one clip share frames, but not their answers."""

    @property
    def counts(self) -> list[int]:
        return [len(p) for p in self.positions]

    def column(self, i: int) -> torch.Tensor:
        """(M,) int64: column ``i`` of the pairs."""
        return torch.tensor([p[i] for p in self.pairs], dtype=torch.long)

    def rows_of(self, kind: int) -> torch.Tensor:
        """int64 indices of the pairs of one kind, in order; those of KEYFRAME are (N,), one for each state."""
        return torch.tensor([m for m, p in enumerate(self.pairs) if p[2] == kind], dtype=torch.long)

    def keyframe_pairs(self) -> torch.Tensor:
        """(N,) int64: for each state, the pair that draws its keyframe."""
        return self.rows_of(KEYFRAME)

    def mask_counts(self) -> torch.Tensor:
        """(B, 2) int64: each sequence's video masks and keyframe masks."""
        counts = torch.zeros(len(self.positions), 2, dtype=torch.long)
        for _, _, kind, b in self.pairs:
            counts[b, kind] += 1
        return counts


def collect(samples: Sequence[Sample], episodes: Sequence[dict[str, Any]], with_video_frames: bool) -> SegBatch:
    """Lay out states, frames and pairs of a micro-batch.

    Args:
        samples: B prompts.
        episodes: B episodes as plain dicts (``dataclasses.asdict(Episode)``).
        with_video_frames: also pair every state with its episode's spatial frames.
    """
    batch = SegBatch(positions=[], samples=list(samples))
    seen: dict[tuple[str, int], int] = {}

    def frame_row(sample: Sample, frame: int) -> int:
        key = (sample.clip.frames[frame], frame)
        if key not in seen:
            seen[key] = len(batch.frames)
            batch.frames.append((sample, frame))
        return seen[key]

    state = 0
    for b, (sample, episode) in enumerate(zip(samples, episodes, strict=True)):
        positions: list[int] = []
        for turn in episode["turns"]:
            for position in turn["seg_positions"]:
                positions.append(int(position))
                batch.pairs.append((state, frame_row(sample, int(turn["keyframe"])), KEYFRAME, b))
                if with_video_frames:
                    for f in episode["spatial_frames"]:
                        batch.pairs.append((state, frame_row(sample, int(f)), VIDEO, b))
                state += 1
        batch.positions.append(positions)
    return batch


def mask_totals(episodes: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """Video masks and keyframe masks of all ``episodes``: every ``[SEG]`` draws each spatial frame and its keyframe."""
    tokens = [sum(len(turn["seg_positions"]) for turn in episode["turns"]) for episode in episodes]
    video = sum(n * len(episode["spatial_frames"]) for n, episode in zip(tokens, episodes, strict=True))
    return video, sum(tokens)


def token_mask(batch: SegBatch, lengths: Sequence[int], shape: torch.Size, packed: bool) -> torch.Tensor:
    """bool mask over ``input_ids``, of ``shape`` (B, L) padded or (1, total) packed, True on ``[SEG]`` tokens."""
    mask = torch.zeros(shape, dtype=torch.bool)
    start = 0
    for b, (positions, length) in enumerate(zip(batch.positions, lengths, strict=True)):
        for p in positions:
            if packed:
                mask[0, start + p] = True
            else:
                mask[b, p] = True
        start += int(length)
    return mask


def ground_truth(batch: SegBatch, size: tuple[int, int], masks_of: Callable[[Sample, int], np.ndarray]) -> torch.Tensor:
    """(M, h, w) float32 in [0, 1]: each pair's true mask, area-averaged to the size of the mask logits."""
    cache: dict[tuple[str, int], torch.Tensor] = {}
    out = []
    for _, frame_index, _, b in batch.pairs:
        frame = batch.frames[frame_index][1]
        key = (batch.samples[b].id, frame_index)
        if key not in cache:
            mask = torch.from_numpy(np.ascontiguousarray(masks_of(batch.samples[b], frame))).float()
            cache[key] = F.interpolate(mask[None, None], size, mode="area")[0, 0]
        out.append(cache[key])
    return torch.stack(out) if out else torch.zeros(0, *size)


def row_lengths(nested: Any) -> torch.Tensor:
    """(B,) entries of each row of a jagged tensor."""
    return nested.offsets().diff()  # type: ignore[no-any-return]


def rows_with_dummy(values: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """(N, ...) -> jagged (B, *) with one zero entry before each sequence's own, flattened per row.

    The leading entry keeps rows of sequences without ``[SEG]`` from being empty, which the transport does not carry.
    """
    width = int(np.prod(values.shape[1:], dtype=np.int64)) if values.dim() > 1 else 1
    flat = values.reshape(values.shape[0], width)
    rows, start = [], 0
    for n in counts:
        rows.append(torch.cat([flat.new_zeros(1, width), flat[start : start + n]]).reshape(-1))
        start += n
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def rows_without_dummy(nested: torch.Tensor, width: int = 1) -> Iterator[torch.Tensor]:
    """Inverse of :func:`rows_with_dummy`: per sequence a (n_i, width) tensor."""
    for row in nested.unbind():
        yield row.reshape(-1, width)[1:]
