"""The host's share of segmentation beside the device's: frames are read ahead, results fetched a step later.

Shape legend: N masks, H x W pixels of the clip, F frames of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

READERS = 8
"""Threads that decode and resize frames; PIL lets go of the interpreter meanwhile."""


@dataclass(frozen=True)
class Fetched:
    """Tensors on their way to the host."""

    tag: Any
    """Whatever tells what they are."""
    tensors: tuple[Tensor, ...]
    arrived: torch.cuda.Event | None

    def wait(self) -> tuple[Any, tuple[Tensor, ...]]:
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.tag, self.tensors


def fetch(tag: Any, *tensors: Tensor) -> Fetched:
    """Begin to copy ``tensors`` to the host, behind what the GPU is doing."""
    if not tensors or not tensors[0].is_cuda:
        return Fetched(tag, tensors, None)
    copies = tuple(torch.empty(t.shape, dtype=t.dtype, pin_memory=True).copy_(t, non_blocking=True) for t in tensors)
    event = torch.cuda.Event()
    event.record()
    return Fetched(tag, copies, event)


def one_behind(work: Iterable[Fetched]) -> Iterator[tuple[Any, tuple[Tensor, ...]]]:
    """Each result once the next one is under way, so that the device computes while the host uses the last."""
    last: Fetched | None = None
    for current in work:
        if last is not None:
            yield last.wait()
        last = current
    if last is not None:
        yield last.wait()


class ReadAhead:
    """Chunks of frames as they are read by threads; a chunk is known by its key and taken once."""

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None
        self._pending: dict[Hashable, tuple[Future[Tensor], int]] = {}

    def begin(self, keys: Sequence[Hashable], read: Callable[[], Tensor]) -> None:
        """Read F frames, unless they are being read: ``read`` gives (F, ...), in the order of ``keys``."""
        if not keys or any(key in self._pending for key in keys):
            return
        if self._threads is None:
            self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="frames")
        future = self._threads.submit(read)
        self._pending.update({key: (future, i) for i, key in enumerate(keys)})

    def __contains__(self, key: Hashable) -> bool:
        return key in self._pending

    def __len__(self) -> int:
        return len(self._pending)

    def take(self, key: Hashable) -> Tensor:
        """One frame of a chunk; waits for it. Raises what reading it raised."""
        future, row = self._pending.pop(key)
        return future.result()[row]

    def forget(self) -> None:
        """What was begun and will not be needed."""
        for future, _ in self._pending.values():
            future.cancel()
        self._pending.clear()
