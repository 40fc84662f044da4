"""A clip of 2 000 frames needs the memory of one of 200, and every frame is read and encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from rewards.segmenter import BoxRequest, PropagateRequest, RequestScorer, SegmenterConfig
from rewards.segmenter.cache import ENCODE_CHUNK
from rewards.segmenter.memory import MemoryBank
from rollout.types import Clip
from tests.rewards.segmenter.conftest import random_segmenter

HEIGHT, WIDTH = 180, 320
FRAMES_OF_A_MASK = HEIGHT * WIDTH  # bytes of one boolean mask at the clip's size
LEAST = SegmenterConfig(image_size=32, d_model=32, mem_dim=16, memory_feedforward=32)


class Frames:
    """Stands for the files: says what was read and what the process held meanwhile."""

    def __init__(self) -> None:
        self.read: list[int] = []
        self.most_at_once = 0
        self.peak = 0

    def __call__(self, clip: Clip, indices: Sequence[int]) -> Any:
        self.read += indices
        self.most_at_once = max(self.most_at_once, len(indices))
        self.peak = max(self.peak, psutil.Process().memory_info().rss)
        return [np.full((18, 32, 3), t % 251, dtype=np.uint8) for t in indices]


def peak_over(scorer: RequestScorer, frames: Frames, count: int) -> int:
    """Bytes that the process holds at most while it propagates boxes over so many frames."""
    frames.read, frames.peak = [], 0
    clip = Clip(f"long{count}", tuple(str(t) for t in range(count)), HEIGHT, WIDTH)
    boxes = [(20.0, 20.0, 200.0, 120.0), (30.0, 50.0, 90.0, 170.0)]
    request = BoxRequest(clip, range(count), count // 3, boxes, None, with_masks=True)
    (answer,) = scorer.score([request])
    assert len(answer.rles) == count and answer.ious == ()  # type: ignore[union-attr, arg-type]
    again = [0] if count == 60 else []  # the first clip of all: its first frame says how positions are encoded
    assert sorted(frames.read) == sorted([*again, *range(count)]), "each frame once"
    return frames.peak


def test_memory_does_not_grow_with_the_clip() -> None:
    frames = Frames()
    scorer = RequestScorer(random_segmenter(LEAST), max_resident_frames=16, load=frames)
    peak_over(scorer, frames, 60)
    short = peak_over(scorer, frames, 200)
    long = peak_over(scorer, frames, 2000)
    assert frames.most_at_once == ENCODE_CHUNK
    assert len(scorer.cache) <= 16
    held_at_once = 1800 * FRAMES_OF_A_MASK  # what keeping all masks would add
    assert long - short < held_at_once / 4, f"{(long - short) / 2**20:.0f} MiB more"


@pytest.mark.parametrize("keyframe", [0, 70, 119])
def test_the_bank_forgets_what_no_later_step_sees(keyframe: int) -> None:
    """6 frames of memory and 15 of pointers on either side of the walk, and the keyframe."""
    segmenter = random_segmenter(LEAST)
    held: list[int] = []
    add = MemoryBank.add

    def counted(bank: MemoryBank, *args: Any) -> None:
        add(bank, *args)
        held.append(len(bank._memories))
        assert len(bank._pointers) == len(bank._rows) <= 2 * 16
        assert set(bank._memories) <= set(bank._rows)

    features = segmenter.encode(torch.randn(120, 3, 32, 32))
    state = torch.randn(1, segmenter.prompt_width)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryBank, "add", counted)
        segmenter.propagate(features, [keyframe], states=state)
    assert len(held) == 120 and max(held) <= 13


@pytest.mark.parametrize("resident", [4, 8, 300])
def test_a_clip_longer_than_the_cache_has_the_same_masks(resident: int) -> None:
    segmenter = random_segmenter()
    clip = Clip("clip", tuple(str(t) for t in range(40)), 60, 80)
    state = np.random.default_rng(0).normal(size=segmenter.prompt_width).astype(np.float32)
    requests = [PropagateRequest(clip, k, state) for k in (0, 13, 39)]
    whole = RequestScorer(segmenter, max_resident_frames=64, load=Frames()).score(requests)
    frames = Frames()
    parts = RequestScorer(segmenter, max_resident_frames=resident, load=frames).score(requests)
    for a, b in zip(whole, parts, strict=True):
        different = sum(x != y for x, y in zip(a.rles, b.rles, strict=True))  # type: ignore[union-attr, arg-type]
        assert different <= 1, "encoding frames in other groups may move a pixel on the edge, no more"
