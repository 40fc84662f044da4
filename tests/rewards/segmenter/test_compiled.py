"""A compiled image encoder gives the eager one's features."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rewards.segmenter import Segmenter


@pytest.mark.parametrize("frames", [3, 4])
def test_features_equal_the_eager_encoders(segmenter: Segmenter, pixels: Tensor, frames: int) -> None:
    """Traced, split and padded as on a GPU; the kernels' generator is torch's own affair, and slow on a CPU."""
    compiled = copy.deepcopy(segmenter)  # two of its blocks are alike
    assert compiled.architecture.model is compiled.sam2_model
    compiled.compile_encoder(backend="aot_eager")
    with torch.no_grad():
        ours, eager = compiled.encode(pixels[:frames]), segmenter.encode(pixels[:frames])
    for a, b in zip((*ours.levels, ours.position), (*eager.levels, eager.position), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_equal_blocks_are_compiled_once_and_see_one_size(segmenter: Segmenter, pixels: Tensor) -> None:
    deep = Segmenter(replace(segmenter.config, stages=(1, 1, 6, 1)))
    graphs: list[Any] = []

    def count(graph: Any, inputs: Any) -> Any:
        graphs.append([tuple(i.shape) for i in inputs if isinstance(i, Tensor) and i.dim() == 4])
        return graph

    deep.compile_encoder(backend=count)  # type: ignore[arg-type]
    torch._dynamo.reset()
    with torch.no_grad():
        deep.encode(pixels[:5], chunk=3)
    assert {shape[0] for shapes in graphs for shape in shapes} == {2}
    assert 0 < len(graphs) < len(deep.architecture.blocks())
