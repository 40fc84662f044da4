"""Which worker gets which request, and in what order: pure bookkeeping without Ray.

A clip stays with the worker that encoded it. Waiting requests of one clip leave together, so that all rollouts of a
group are decoded in one batch. A request whose batch failed leaves alone, so that one bad request cannot take others
with it.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from rewards.segmenter.types import Request

ClipKey = tuple[str, str]
_REMEMBERED_CLIPS = 4096


@dataclass
class Job:
    """A request on its way."""

    request: Request
    future: Future[Any] = field(default_factory=Future)
    deaths: int = 0
    """Workers that died while it was with them."""
    alone: bool = False
    """Set once it was part of a batch that failed."""

    def start(self) -> bool:
        """False if its caller has cancelled it."""
        return self.future.running() or self.future.set_running_or_notify_cancel()

    def settle(self, outcome: Any) -> None:
        """Hand the outcome to the caller: raised if it is an exception."""
        if self.future.cancelled():
            return
        if isinstance(outcome, Exception):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)

    @property
    def clip_key(self) -> ClipKey:
        clip = self.request.clip
        return clip.name, clip.frames[0] if clip.frames else ""


class AffinityQueue:
    """One queue for each worker; safe for many threads."""

    def __init__(self, num_workers: int, max_requests_per_call: int) -> None:
        self._limit = max_requests_per_call
        self._changed = threading.Condition()
        self._waiting: list[deque[Job]] = [deque() for _ in range(num_workers)]
        self._running = [0] * num_workers
        self._home: OrderedDict[ClipKey, int] = OrderedDict()
        self._closed = False

    def put(self, jobs: Sequence[Job]) -> bool:
        """All as one, so that no worker starts on a clip before its last request is here; False once closed."""
        with self._changed:
            if not self._closed:
                for job in jobs:
                    self._waiting[self._home_of(job.clip_key)].append(job)
                self._changed.notify_all()
            return not self._closed

    def take(self, worker: int) -> list[Job]:
        """Wait for work; the next clip's waiting requests, or nothing once closed."""
        with self._changed:
            self._running[worker] = 0
            while not self._waiting[worker] and not self._closed:
                self._changed.wait()
            if self._closed:
                return []
            batch = self._next_batch(self._waiting[worker])
            self._running[worker] = len(batch)
            return batch

    def forget_homes(self) -> None:
        """Let clips find a worker anew, all but those with requests waiting: what is queued stays together."""
        with self._changed:
            waiting = {job.clip_key for queue in self._waiting for job in queue}
            for clip in [clip for clip in self._home if clip not in waiting]:
                del self._home[clip]

    def close(self) -> list[Job]:
        """Release all waiting threads; the jobs that will not be done."""
        with self._changed:
            self._closed = True
            left = [job for queue in self._waiting for job in queue]
            for queue in self._waiting:
                queue.clear()
            self._changed.notify_all()
            return left

    def _next_batch(self, queue: deque[Job]) -> list[Job]:
        first = queue.popleft()
        if first.alone:
            return [first]
        batch = [first]
        rest: list[Job] = []
        for job in queue:
            together = job.clip_key == first.clip_key and not job.alone and len(batch) < self._limit
            (batch if together else rest).append(job)
        queue.clear()
        queue.extend(rest)
        return batch

    def _home_of(self, clip: ClipKey) -> int:
        """The clip's worker; a new clip goes to its first choice by hash unless that one is clearly busier."""
        if clip in self._home:
            self._home.move_to_end(clip)
            return self._home[clip]
        load = [len(q) + r for q, r in zip(self._waiting, self._running, strict=True)]
        fair = math.ceil(1.25 * (sum(load) + 1) / len(load))
        choices = sorted(range(len(load)), key=lambda w: hashlib.blake2b(f"{clip}{w}".encode()).digest())
        home = next((w for w in choices if load[w] < fair), choices[0])
        self._home[clip] = home
        if len(self._home) > _REMEMBERED_CLIPS:
            self._home.popitem(last=False)
        return home
