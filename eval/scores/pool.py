"""A process pool over clips that holds few jobs at a time, so that memory does not grow with the benchmark."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from rollout.errors import WorkerError
from rollout.orphans import end_with_parent

Job = TypeVar("Job")
Out = TypeVar("Out")

_work: Callable[[Any], Any]


def cpu_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_unordered(work: Callable[[Job], Out], jobs: Iterable[Job], workers: int) -> Iterator[tuple[int, Out]]:
    """(position of the job, its result) as they finish; ``jobs`` is read no faster than they are worked off.

    ``workers`` 1 works in this process. ``work`` is sent to each process once, jobs and results travel by pickle.
    Raises what ``work`` raises, and WorkerError if a process dies (out of memory, as a rule).
    """
    if workers <= 1:
        yield from ((i, work(job)) for i, job in enumerate(jobs))
        return
    # A server that has loaded the kernels once and forks from there: this process may hold threads (a progress bar,
    # Ray) that a fork of its own would not survive.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["eval.scores.pool_preload"])
    with ProcessPoolExecutor(workers, context, _start, (work,)) as pool:
        try:
            yield from _bounded(pool, jobs, 2 * workers)
        except (BrokenProcessPool, EOFError) as error:  # EOFError: the server that starts them is gone
            raise WorkerError(
                "a scoring process died, perhaps for lack of memory; run again with fewer --workers"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _bounded(pool: ProcessPoolExecutor, jobs: Iterable[Any], limit: int) -> Iterator[tuple[int, Any]]:
    running: dict[Future[Any], int] = {}
    for i, job in enumerate(jobs):
        running[pool.submit(_run, job)] = i
        if len(running) >= limit:
            yield from _finished(running)
    while running:
        yield from _finished(running)


def _finished(running: dict[Future[Any], int]) -> Iterator[tuple[int, Any]]:
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        yield running.pop(future), future.result()


def _start(work: Callable[[Any], Any]) -> None:
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    end_with_parent()


def _run(job: Any) -> Any:
    return _work(job)
