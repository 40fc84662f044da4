"""Items with memories of different lengths: one at a time, and packed into one call as on a GPU, with equal masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rewards.segmenter import Segmenter
from rewards.segmenter import attention as module
from rewards.segmenter.pieces import rotate, rotations

KEYFRAMES = [4, 19, 4, 12, 0, 18]


def plain_varlen(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int) -> Tensor:
    """What torch's kernel computes, piece by piece."""
    assert cu_q.dtype == cu_k.dtype == torch.int32
    assert (int(cu_q[-1]), int(cu_k[-1])) == (len(q), len(k)) and len(k) == len(v)
    assert max_q == int(cu_q.diff().max()) and max_k == int(cu_k.diff().max())
    pieces = zip(*(t.tensor_split(cu[1:-1].long()) for t, cu in ((q, cu_q), (k, cu_k), (v, cu_k))), strict=True)
    return torch.cat([F.scaled_dot_product_attention(*(x.transpose(0, 1) for x in p)).transpose(0, 1) for p in pieces])


def test_packed_equals_one_at_a_time(
    segmenter: Segmenter, pixels: Tensor, states: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.no_grad():
        features = segmenter.encode(pixels)
    apart = segmenter.propagate(features, KEYFRAMES, states=states)
    calls: list[int] = []

    def counted(*args: Any) -> Tensor:
        calls.append(len(args[3]) - 1)
        return plain_varlen(*args)

    monkeypatch.setattr(module, "takes_packed", lambda queries: True)
    monkeypatch.setattr(module, "varlen_attn", counted)
    packed = segmenter.propagate(features, KEYFRAMES, states=states)
    torch.testing.assert_close(packed, apart, atol=1e-5, rtol=1e-5)
    assert len(calls) > 5 and set(calls) == {len(KEYFRAMES)}, "ragged steps go through one call, with every item"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_kernel_equals_dense_calls_on_a_gpu() -> None:
    generator = torch.Generator().manual_seed(0)
    width = 256
    q = torch.randn(3, 256, width, generator=generator).cuda().bfloat16()
    lengths = [300, 260, 260]
    keys, values = (torch.randn(sum(lengths), width, generator=generator).cuda().bfloat16() for _ in range(2))
    starts = torch.tensor([0, 300, 560, 820], dtype=torch.int32).cuda()
    together = module._mix_packed(q, keys, values, starts, 300)
    pieces = zip(q.split(1), keys[None].split(lengths, 1), values[None].split(lengths, 1), strict=True)
    alone = torch.cat([module._mix(*piece) for piece in pieces])
    assert (together - alone).abs().max() < 2e-2


def test_a_rotation_keeps_length_and_repeats_for_each_frame() -> None:
    generator = torch.Generator().manual_seed(0)
    turns = rotations(torch.polar(torch.ones(9, 4), torch.randn(9, 4, generator=generator)))
    x = torch.randn(2, 9, 8, generator=generator)
    twice = rotate(torch.cat([x, x], 1), turns[:-1].repeat(2, 1, 1))
    torch.testing.assert_close(twice[:, :9], twice[:, 9:])
    torch.testing.assert_close(twice.norm(dim=-1), torch.cat([x, x], 1).norm(dim=-1))
    assert rotate(x.bfloat16(), turns[:-1]).dtype == torch.bfloat16
