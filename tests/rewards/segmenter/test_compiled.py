"""A compiled segmenter gives the eager one's features and masks, and is compiled a few times, whatever its batches."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from shutil import which
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from rewards.segmenter import Segmenter, SegmenterConfig
from rewards.segmenter import attention as module
from rewards.segmenter.attention import attend_to_memory
from rewards.segmenter.memory import Memory
from rewards.segmenter.pieces import EAGER, Pieces, compiled_pieces, rotate, rotations
from tests.rewards.segmenter.conftest import SMALL, random_segmenter
from tests.rewards.segmenter.test_attention import plain_varlen

BOX = [10.0, 5, 70, 60]
SIZE = (90, 120)


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def layered() -> Segmenter:
    """Three layers of memory attention, with parameters of their own."""
    return random_segmenter(replace(SMALL, memory_layers=3))


@pytest.mark.parametrize("frames", [3, 4])
def test_features_equal_the_eager_encoders(segmenter: Segmenter, pixels: Tensor, frames: int) -> None:
    """Traced, split and padded as on a GPU; the kernels' generator is torch's own affair, and slow on a CPU."""
    compiled = copy.deepcopy(segmenter)  # two of its blocks are alike
    assert compiled.architecture.model is compiled.sam2_model
    compiled.compile_parts(backend="aot_eager")
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

    deep.compile_parts(backend=count)  # type: ignore[arg-type]
    torch._dynamo.reset()
    with torch.no_grad():
        deep.encode(pixels[:5], chunk=3)
    assert {shape[0] for shapes in graphs for shape in shapes} == {2}
    assert 0 < len(graphs) < len(deep.architecture.blocks())


def prompts(kind: str, states: Tensor, n: int) -> dict[str, Any]:
    if kind == "states":
        return {"states": states[:n]}
    return {"boxes": torch.tensor([BOX] * n), "clip_size": SIZE}


def test_masks_equal_the_eager_ones_with_a_graph_for_each_piece(
    layered: Segmenter, pixels: Tensor, states: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of 1 to 6 items, alike and ragged, of clips of 2 to 20 frames, with states and with boxes."""
    monkeypatch.setattr(module, "takes_packed", lambda queries: True)
    monkeypatch.setattr(module, "varlen_attn", plain_varlen)
    compiled = copy.deepcopy(layered)
    compiled.compile_parts(backend="aot_eager")
    with torch.no_grad():
        features = layered.encode(pixels)
    # a graph for each of six pieces, and one more of `recall` for memories of different lengths
    for keyframes in ([4, 19, 4, 12, 0, 18], [3, 3], [5], [0, 19, 7], [0, 0, 0, 1]):
        for kind in ("states", "boxes"):
            given = prompts(kind, states, len(keyframes))
            ours = compiled.propagate(features, keyframes, **given)
            torch.testing.assert_close(ours, layered.propagate(features, keyframes, **given), atol=1e-4, rtol=1e-4)
            assert counters["stats"]["unique_graphs"] == 7
    for length in (2, 3, 9):
        given = {**prompts("states", states, 2), "videos": [list(range(length)), list(range(length))]}
        ours = compiled.propagate(features, [0, length - 1], **given)
        expected = layered.propagate(features, [0, length - 1], **given)
        torch.testing.assert_close(ours[:, :length], expected[:, :length], atol=1e-4, rtol=1e-4)
    assert counters["stats"]["unique_graphs"] == 7 and not counters["graph_break"]


def test_sam3s_pieces_are_compiled_as_well() -> None:
    segmenter = Segmenter(SegmenterConfig("sam3_tiny", image_size=64, d_model=64, memory_layers=2))
    compiled = copy.deepcopy(segmenter)
    compiled.compile_parts(backend="aot_eager")
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(3, segmenter.prompt_width, generator=generator)
    with torch.no_grad():
        features = segmenter.encode(torch.randn(4, 3, 64, 64, generator=generator))
    for keyframes in ([0, 3], [1, 0, 3], [2]):
        given = states[: len(keyframes)]
        ours = compiled.propagate(features, keyframes, states=given)
        expected = segmenter.propagate(features, keyframes, states=given)
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
        assert counters["stats"]["unique_graphs"] <= 7


def random_memory(frames: list[int], size: int, channels: int) -> Memory:
    """Of items that remember so many frames each, and a pointer in two pieces."""
    generator = torch.Generator().manual_seed(len(frames))
    lengths = [size * k + 2 for k in frames]
    rows = [torch.cat([torch.arange(size).repeat(k), torch.full((2,), size)]) for k in frames]
    alike = len(set(lengths)) == 1
    shape = (len(frames), lengths[0], channels) if alike else (1, sum(lengths), channels)
    tokens, placed = (torch.randn(shape, generator=generator).bfloat16() for _ in range(2))
    starts = None if alike else torch.tensor([0, *lengths]).cumsum(0).int()
    return Memory(tokens, placed, rows[0] if alike else torch.cat(rows), lengths, starts)


def fused(segmenter: Segmenter, pieces: Pieces, frames: list[int]) -> Tensor:
    arch, generator = segmenter.architecture, torch.Generator().manual_seed(7)
    size, channels = arch.grid**2, arch.memory_positions().shape[-1]
    frame = torch.randn(len(frames), arch.feature_width, arch.grid, arch.grid, generator=generator)
    position = torch.randn(1, *frame.shape[1:], generator=generator)
    memory = random_memory(frames, size, channels)
    if segmenter.config.compute_dtype != "bfloat16":
        memory = replace(memory, tokens=memory.tokens.float(), placed=memory.placed.float())
    with torch.no_grad(), segmenter.autocast():
        return attend_to_memory(arch, frame, position, rotations(arch.rotary(frame)), memory, pieces)


@pytest.mark.skipif(not (which("c++") or which("g++")), reason="kernels for a CPU are generated as C++")
def test_generated_kernels_round_as_eager_ones_do(layered: Segmenter) -> None:
    """Torch's own generator, in bfloat16 with weights rounded once, as the pool's workers run it."""
    half = Segmenter(replace(layered.config, compute_dtype="bfloat16"))
    half.load_state_dict(layered.state_dict())
    half.requires_grad_(False).round_weights()
    pieces = compiled_pieces()
    for frames in ([1, 1], [3, 3, 3], [1, 2], [7, 2, 7, 4]):
        ours, eager = (fused(half, each, frames) for each in (pieces, EAGER))
        exact = fused(layered, EAGER, frames)
        rounding = (eager - exact).abs().mean()
        assert (ours - exact).abs().mean() < 1.2 * rounding and (ours - eager).abs().mean() < 2 * rounding
    assert counters["stats"]["unique_graphs"] == 5


@pytest.mark.parametrize("run", [rotate, torch.compile(rotate, backend="aot_eager", dynamic=True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rotation_is_a_complex_product(run: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    rotary = torch.polar(torch.ones(9, 4), torch.randn(9, 4, generator=generator) * 3)
    x = torch.randn(2, 20, 8, generator=generator).to(dtype)
    rows = torch.tensor([*range(9), *range(9), 9, 9])
    turned = run(x, rotations(rotary)[rows])
    pairs = torch.view_as_complex(x[:, :18].double().reshape(2, 2, 9, 4, 2))
    product = torch.view_as_real(pairs * rotary).reshape(2, 18, 8)
    exact = 1e-6 if dtype is torch.float32 else 2**-8
    torch.testing.assert_close(turned[:, :18].double(), product, atol=exact, rtol=exact)
    assert torch.equal(turned[:, 18:], x[:, 18:]) and turned.dtype == dtype


def test_parameters_are_no_constants_of_a_graph(layered: Segmenter, pixels: Tensor, states: Tensor) -> None:
    """A worker's decoder is replaced as training goes on."""
    compiled = copy.deepcopy(layered)
    compiled.compile_parts(backend="aot_eager")
    with torch.no_grad():
        features = layered.encode(pixels[:3])
        before = compiled.propagate(features, [1, 2], states=states[:2])
        for model in (compiled, other := copy.deepcopy(layered)):
            for part in (model.architecture.model.sam_mask_decoder, model.architecture.model.memory_attention):
                assert isinstance(part, nn.Module)
                for p in part.parameters():
                    p.mul_(1.1)
    graphs = counters["stats"]["unique_graphs"]
    after = compiled.propagate(features, [1, 2], states=states[:2])
    assert (after - before).abs().max() > 1e-2
    torch.testing.assert_close(after, other.propagate(features, [1, 2], states=states[:2]), atol=1e-4, rtol=1e-4)
    assert counters["stats"]["unique_graphs"] == graphs
