"""A small random SAM 2 whose object scores are neither all positive nor all negative."""

from __future__ import annotations

import pytest
import torch

from rewards.segmenter import Segmenter, SegmenterConfig

SMALL = SegmenterConfig(image_size=64, d_model=32, mem_dim=16, memory_feedforward=32, fuser_layers=1)


def random_segmenter(config: SegmenterConfig = SMALL) -> Segmenter:
    segmenter = Segmenter(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in segmenter.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.1)
        size = config.image_size
        features = segmenter.encode(torch.randn(8, 3, size, size, generator=generator))
        states = torch.randn(8, segmenter.prompt_width, generator=generator)
        scores = segmenter.decode_candidates(features, range(8), states).object_score
        segmenter.sam2_model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias -= scores.median()
    return segmenter


@pytest.fixture(scope="session")
def segmenter() -> Segmenter:
    return random_segmenter()


@pytest.fixture(scope="session")
def pixels() -> torch.Tensor:
    """(20, 3, 64, 64): longer than the memory's reach of 6 frames and the pointers' of 15."""
    return torch.randn(20, 3, 64, 64, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def states(segmenter: Segmenter) -> torch.Tensor:
    return torch.randn(6, segmenter.prompt_width, generator=torch.Generator().manual_seed(3))
