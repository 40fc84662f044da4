"""Peak memory of this process and everything that it started."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil

GIB = 1 << 30


def tree_bytes(root: psutil.Process) -> int:
    """Proportional set size of a process tree: pages that several processes share count once."""
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return total


class PeakMemory:
    """Samples in a thread while the block runs; ``gib`` is the largest sum seen."""

    def __init__(self, every_seconds: float = 3.0) -> None:
        self.gib = 0.0
        self._every = every_seconds
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._finished.set()
        self._thread.join()
        self._sample()  # a block may be over before the first sample is due

    def _watch(self) -> None:
        while not self._finished.wait(self._every):
            self._sample()

    def _sample(self) -> None:
        self.gib = max(self.gib, tree_bytes(psutil.Process()) / GIB)
