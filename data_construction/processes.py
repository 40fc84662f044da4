"""Work that comes in many independent pieces, shared between processes where that is sooner done."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from rollout.orphans import end_with_parent

T = TypeVar("T")
R = TypeVar("R")
PIECES_A_PROCESS = 32
"""Of a tenth of a second each: fewer are done sooner than another process has started."""

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Read once, when a process first loads its linear algebra."""


def in_order(do: Callable[[T], R], pieces: Sequence[T], processes: int | None = None) -> Iterator[R]:
    """``do`` of each piece, in the order of the pieces, whatever the number of processes.

    ``processes``: None takes as many as there are cores and as pay; below two, all is done here. Else ``do`` is pickled
    once a process, each piece and what is made of it once. The first error that a piece raises is raised.
    """
    if processes is None:
        processes = min(os.cpu_count() or 1, len(pieces) // PIECES_A_PROCESS)
    if processes < 2:
        yield from map(do, pieces)
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _take, (do,)) as pool:
        with _one_thread_each():
            done = pool.map(_do, pieces)  # which starts them all
        yield from done


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """For processes that are started meanwhile: else each of N would have N threads for a small matrix product (eight
    processes of eight on two cores: 2.1 times as long, while others worked there too)."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


_taken: list[Callable[[Any], Any]] = []
"""What this process does."""


def _take(do: Callable[[Any], Any]) -> None:
    end_with_parent()
    _taken[:] = [do]


def _do(piece: Any) -> Any:
    return _taken[0](piece)
