"""Weights from the actor to vLLM on other GPUs, or in other processes of a CPU: verl's checkpoint engine ``videoseg``.

verl 0.9.1 has this over NCCL through cupy, which knows no CPU and which nothing else here needs. This one uses torch's
own process groups, outside the default one: NCCL on GPUs, gloo on a CPU. The actor's first process sends, every vLLM
process receives; the actor's others only help to gather. The group stays for the next sync: NCCL takes a second to make
one.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import timedelta
from typing import Any

import ray
import torch
import torch.distributed as dist
from verl.checkpoint_engine.base import CheckpointEngine, CheckpointEngineRegistry
from verl.utils.device import get_device_id, get_device_name

from verl_ext.run.verl_config import BROADCAST

TIMEOUT = timedelta(minutes=10)
END = b"end"
ALIGNED = 16
"""Bytes: views of any dtype begin at such an offset."""

Entry = tuple[str, torch.dtype, tuple[int, ...], int]
"""A tensor's name, dtype, shape, and where it begins in its bucket."""


@CheckpointEngineRegistry.register(BROADCAST)
class BroadcastEngine(CheckpointEngine):  # type: ignore[misc]
    """One process's end. ``bucket_size`` bytes are sent at once; a larger tensor is a bucket of its own."""

    def __init__(self, bucket_size: int, is_master: bool = False) -> None:
        self._bytes, self._is_master = bucket_size, is_master
        self._store: Any = None
        self._group: Any = None
        self._rank = -1
        self._joined: tuple[Any, ...] = ()
        self._syncs = 0

    def prepare(self) -> dict[str, Any]:
        """Where the others find the sender."""
        self._syncs += 1
        if not self._is_master:
            return {}
        if self._store is None:
            host = ray.util.get_node_ip_address().strip("[]")
            self._store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=TIMEOUT)
        return {"host": self._store.host, "port": self._store.port}

    @classmethod
    def build_topology(
        cls, actor_wg_world_size: int, rollout_world_size: int, metadata: list[dict[str, Any]]
    ) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        world, where = rollout_world_size + 1, metadata[0]

        def of(ranks: list[int]) -> dict[str, list[Any]]:
            return {"rank": ranks, "world_size": [world] * len(ranks), "where": [where] * len(ranks)}

        return of([0] + [-1] * (actor_wg_world_size - 1)), of(list(range(1, world)))

    def init_process_group(self, rank: int, world_size: int, where: dict[str, Any]) -> None:
        wanted = (rank, world_size, where["host"], where["port"])
        if wanted == self._joined:
            return
        self._rank, self._joined = rank, wanted
        if rank < 0:
            return
        if rank > 0:
            self._store = dist.TCPStore(where["host"], where["port"], is_master=False, timeout=TIMEOUT)
        store = dist.PrefixStore("group", self._store)
        if get_device_name() == "cpu":
            self._group = dist.ProcessGroupGloo(store, rank, world_size, TIMEOUT)
        else:
            options = dist.ProcessGroupNCCL.Options()
            options._timeout = TIMEOUT
            self._group = dist.ProcessGroupNCCL(store, rank, world_size, options)

    def finalize(self) -> None:
        """Nothing is held from one sync to the next but the group."""

    @torch.no_grad()
    async def send_weights(
        self, weights: Iterable[tuple[str, torch.Tensor]], global_steps: int | None = None
    ) -> dict[str, float]:
        """Raises RuntimeError when a receiver is gone, or does not answer for `TIMEOUT`."""
        if self._rank < 0:
            for _ in weights:  # gathering a weight takes all of the actor's processes
                pass
            return {}
        sent = 0
        for i, (entries, bucket) in enumerate(buckets(weights, self._bytes)):
            self._store.set(self._key(i), pickle.dumps((entries, len(bucket))))
            await self._broadcast(bucket)
            sent = i + 1
        self._store.set(self._key(sent), END)
        return {}

    async def receive_weights(self, global_steps: int | None = None) -> AsyncIterator[tuple[str, torch.Tensor]]:
        i = 0
        while (told := await asyncio.to_thread(self._store.get, self._key(i))) != END:
            entries, length = pickle.loads(told)
            bucket = torch.empty(length, dtype=torch.uint8, device=get_device_id())
            await self._broadcast(bucket)
            for name, dtype, shape, begin in entries:
                size = dtype.itemsize * torch.Size(shape).numel()
                yield name, bucket[begin : begin + size].view(dtype).view(shape)
            i += 1

    def _key(self, bucket: int) -> str:
        return f"{self._syncs}/{bucket}"

    async def _broadcast(self, bucket: torch.Tensor) -> None:
        options = dist.BroadcastOptions()
        options.rootRank = 0
        work = self._group.broadcast([bucket], options)
        await asyncio.to_thread(work.wait)
        if bucket.is_cuda:
            torch.cuda.synchronize()


def buckets(weights: Iterable[tuple[str, torch.Tensor]], most: int) -> Iterator[tuple[list[Entry], torch.Tensor]]:
    """(entries, bytes) of neighbouring weights, of at most ``most`` bytes unless a single one has more."""
    entries: list[Entry] = []
    parts: list[torch.Tensor] = []
    filled = 0
    for name, weight in weights:
        raw = weight.detach().to(get_device_id()).contiguous().view(-1).view(torch.uint8)
        if parts and filled + len(raw) > most:
            yield entries, torch.cat(parts)
            entries, parts, filled = [], [], 0
        entries.append((name, weight.dtype, tuple(weight.shape), filled))
        gap = -len(raw) % ALIGNED
        parts += [raw, raw.new_zeros(gap)] if gap else [raw]
        filled += len(raw) + gap
    if parts:
        yield entries, torch.cat(parts)
