"""The pieces of a tracked step between its attention calls, eager or compiled.

Most of what a step moves through a GPU's memory is for norms, rotations, casts and residuals, and most of its launches
are for the heads: compiled, each piece is a few kernels. The calls of memory attention stay outside, where torch picks
the kernel. A piece is compiled once for batches of any size and memories of any length, and all layers share it: their
parameters are inputs of the graph.

Shape legend: n items, Q positions of a frame, T rows of memory tokens, d width, m memory channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rewards.segmenter.architecture import Architecture, Attention, MemoryLayer
from rewards.segmenter.features import Levels
from rewards.segmenter.heads import HeadOutput, Prompt, run_heads
from rewards.segmenter.memory import encode_memory


def rotations(rotary: Tensor) -> Tensor:
    """(Q, d / 2) complex64 -> (Q + 1, d / 2, 2) float32 cosines and sines; the last row turns nothing."""
    still = torch.view_as_real(torch.ones_like(rotary[:1]))
    return torch.cat([torch.view_as_real(rotary), still])


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """(n, T, d) turned by (T, d / 2, 2) cosines and sines; computed in float32."""
    pairs = x.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # complex numbers would not be fused; alone they are the fewest kernels
        (real, imaginary), (cos, sin) = pairs.unbind(-1), turns.unbind(-1)
        turned = torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1)
    else:
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(turns))
    return turned.flatten(-2).to(x.dtype)


def into_frame(layer: MemoryLayer, hidden: Tensor, turns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(n, Q, d) -> queries, keys and values of the attention over the frame itself."""
    attention, seen = layer.over_frame, layer.norms[0](hidden)
    return rotate(attention.q(seen), turns), rotate(attention.k(seen), turns), attention.v(seen)


def into_memory(layer: MemoryLayer, hidden: Tensor, mixed: Tensor, turns: Tensor) -> tuple[Tensor, Tensor]:
    """(n, Q, d) and what the frame answered -> the sum, and queries of the attention over memory."""
    hidden = hidden + layer.over_frame.out(mixed)
    return hidden, rotate(layer.over_memory.q(layer.norms[1](hidden)), turns)


def recall(attention: Attention, tokens: Tensor, placed: Tensor, turns: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """(., T, m) memory without and with positions, turned by (T,) rows of ``turns`` -> (., T, d) keys and values."""
    return rotate(attention.k(placed), turns.index_select(0, rows)), attention.v(tokens)


def onward(layer: MemoryLayer, hidden: Tensor, mixed: Tensor) -> Tensor:
    """(n, Q, d) and what memory answered -> the next layer's (n, Q, d)."""
    hidden = hidden + layer.over_memory.out(mixed)
    return hidden + layer.feed_forward(layer.norms[2](hidden))


@dataclass(frozen=True)
class Pieces:
    """Functions of a tracked step."""

    into_frame: Callable[..., tuple[Tensor, Tensor, Tensor]] = into_frame
    into_memory: Callable[..., tuple[Tensor, Tensor]] = into_memory
    recall: Callable[..., tuple[Tensor, Tensor]] = recall
    onward: Callable[..., Tensor] = onward
    run_heads: Callable[..., HeadOutput] = run_heads
    encode_memory: Callable[..., Tensor] = encode_memory
    smallest: int = 1
    """Items of a batch: compiled for one, a piece would be compiled a second time."""


EAGER = Pieces()


def compiled_pieces(backend: str = "inductor") -> Pieces:
    """Compiled on first use."""
    heads: Callable[..., HeadOutput] = torch.compile(run_heads, backend=backend)
    remember: Callable[..., Tensor] = torch.compile(encode_memory, backend=backend)

    def marked_heads(
        arch: Architecture, image: Tensor, levels: Levels, prompt: Prompt, *, gate: bool, position: Tensor
    ) -> HeadOutput:
        _of_any_size(image, *levels, prompt.dense)
        _of_any_size(prompt.sparse, dims=2)  # a state is one more
        return heads(arch, image, levels, prompt, gate=gate, position=position)

    def marked_memory(arch: Architecture, coarse: Tensor, head: HeadOutput) -> Tensor:
        _of_any_size(coarse, head.logits, head.object_score)
        return remember(arch, coarse, head)

    return Pieces(
        _compiled(into_frame, backend),
        _compiled(into_memory, backend),
        _compiled(recall, backend, dims=2),
        _compiled(onward, backend),
        marked_heads,
        marked_memory,
        smallest=2,
    )


def _compiled(piece: Callable[..., Any], backend: str, dims: int = 1) -> Callable[..., Any]:
    graph = torch.compile(piece, backend=backend)

    def call(parameters: MemoryLayer | Attention, *tensors: Tensor) -> Any:
        _of_any_size(*tensors, dims=dims)
        return graph(parameters, *tensors)

    return call


def _of_any_size(*tensors: Tensor, dims: int = 1) -> None:
    """Tell the compiler that the first dimensions vary; where a graph fixes one after all, it may."""
    for tensor in tensors:
        for dim in range(min(dims, tensor.dim())):
            torch._dynamo.maybe_mark_dynamic(tensor, dim)
