"""Weights over torch's process groups, from the first of two actor processes to two of vLLM."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from verl_ext.engine.broadcast import ALIGNED, BroadcastEngine, buckets

WEIGHTS = {
    "embed": torch.arange(300.0).view(100, 3),
    "odd": torch.arange(7, dtype=torch.bfloat16),
    "scalar": torch.tensor(3.5),
    "turned": torch.arange(12.0).view(3, 4).t(),
    "steps": torch.tensor([1, -2], dtype=torch.int64),
}


def weights() -> Iterator[tuple[str, torch.Tensor]]:
    yield from WEIGHTS.items()


@pytest.mark.parametrize("size", [1, 64, 1 << 20])
def test_buckets_are_filled_and_aligned(size: int) -> None:
    found = list(buckets(weights(), size))
    assert [name for entries, _ in found for name, *_ in entries] == list(WEIGHTS)
    for entries, raw in found:
        assert len(entries) == 1 or len(raw) <= size + ALIGNED
        assert all(begin % ALIGNED == 0 for *_, begin in entries)
    assert len(found) == {1: 5, 64: 3, 1 << 20: 1}[size]


async def received(engine: BroadcastEngine) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() async for name, tensor in engine.receive_weights()}


@pytest.mark.parametrize("size", [16, 1 << 20])
def test_every_receiver_gets_every_weight_twice_over(size: int) -> None:
    """As verl's manager calls it: a second sync makes its own group."""
    actors = [BroadcastEngine(size, is_master=i == 0) for i in range(2)]
    rollouts = [BroadcastEngine(size) for _ in range(2)]
    walked: list[str] = []

    def gathered() -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in weights():
            walked.append(name)
            yield name, tensor

    for sync in (1, 2):
        everybody: list[Any] = [*actors, *rollouts]
        metadata = [engine.prepare() for engine in everybody]
        given = BroadcastEngine.build_topology(2, 2, metadata)
        per_engine = [{k: v[i] for k, v in part.items()} for part in given for i in range(2)]
        with ThreadPoolExecutor(4) as threads:
            list(
                threads.map(lambda pair: pair[0].init_process_group(**pair[1]), zip(everybody, per_engine, strict=True))
            )
            sending = [threads.submit(asyncio.run, a.send_weights(gathered())) for a in actors]
            got = [threads.submit(asyncio.run, received(r)) for r in rollouts]
            for one in (future.result(60) for future in got):
                assert one.keys() == WEIGHTS.keys()
                assert all(torch.equal(one[n], w) and one[n].dtype == w.dtype for n, w in WEIGHTS.items())
            assert [future.result(60) for future in sending] == [{}, {}]
        for engine in everybody:
            engine.finalize()
        assert len(walked) == 2 * sync * len(WEIGHTS)  # the second actor process gathers with the first
