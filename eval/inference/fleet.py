"""Policy workers that are fed, watched and replaced: which dialogue goes where, and what becomes of it when one dies.

Pure bookkeeping over futures, without Ray. A dialogue whose worker died is done again. One that was there for a second
death is a suspect and runs alone, so that a dialogue that kills its worker takes no other with it; after a third it
fails. Expressions of one clip go to one worker, whose caches hold the clip's images.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from eval.inference.dialogue import Dialogue
from eval.results.failures import Failure
from rollout.errors import WorkerError
from rollout.types import Sample

Outcome = Dialogue | Failure
REMEMBERED_CLIPS = 1024


class WorkerDiedError(WorkerError):
    """The process behind a future is gone."""


class Handle(Protocol):
    """One worker. Its futures raise `WorkerDiedError` when it dies."""

    def start(self) -> Future[Any]: ...

    def run(self, sample: dict[str, Any], settings: Mapping[str, Any] | None) -> Future[Outcome]: ...

    def kill(self) -> None: ...


@dataclass(eq=False)
class Job:
    """A dialogue on its way."""

    sample: Sample
    settings: Mapping[str, Any] | None = None
    deaths: int = 0
    """Workers that died while it was with them."""
    attempts: int = 0
    """Times that it came back as a failure worth another try."""


@dataclass(eq=False)
class _Slot:
    handle: Handle
    ready: bool = True
    generation: int = 0
    jobs: set[Job] = field(default_factory=set)
    answered: float = 0.0
    """When its start was asked for, it started, was given work while idle, or answered."""
    failed_starts: int = 0


@dataclass(frozen=True)
class Event:
    """A future that is done; ``job`` None is a worker's start."""

    slot: int
    generation: int
    job: Job | None
    future: Future[Any]


class Fleet:
    """``post`` is called, from any thread, with each `Event`; the owner hands it back to :meth:`handle`.

    Args:
        make: a new handle for a slot; its ``start`` is called by the fleet.
        started: the first handles, already started.
        capacity: dialogues that one worker is given at a time.
        max_deaths: deaths of a worker that a dialogue may see before it fails, and starts that a worker may fail.
        stall_seconds: a worker that holds dialogues and answers none for so long, or starts for so long, is hung.
    """

    def __init__(
        self,
        make: Callable[[int], Handle],
        started: Iterable[Handle],
        capacity: int,
        post: Callable[[Event], None],
        *,
        max_deaths: int = 3,
        stall_seconds: float = 1800.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make, self._post, self._clock = make, post, clock
        self.capacity, self._max, self._stall = capacity, max_deaths, stall_seconds
        self._slots = [_Slot(handle) for handle in started]
        self._waiting: deque[Job] = deque()
        self._suspects: deque[Job] = deque()
        self._home: OrderedDict[str, int] = OrderedDict()
        self.restarts = 0
        """Workers that died and were replaced."""

    @property
    def handles(self) -> list[Handle]:
        return [slot.handle for slot in self._slots]

    @property
    def open(self) -> int:
        """Dialogues that were submitted and have no outcome."""
        return len(self._waiting) + len(self._suspects) + sum(len(slot.jobs) for slot in self._slots)

    def room(self) -> bool:
        """Whether another dialogue would be of use now."""
        return self.open < self.capacity * len(self._slots)

    def submit(self, job: Job) -> None:
        self._waiting.append(job)
        self._dispatch()

    def handle(self, event: Event) -> list[tuple[Job, Outcome]]:
        """Take an event in; the dialogues that are settled by it. Raises WorkerError if a worker will not start."""
        slot = self._slots[event.slot]
        if event.generation != slot.generation:
            return []  # its worker has been replaced since, and its jobs are queued again
        error = event.future.exception()
        settled: list[tuple[Job, Outcome]] = []
        if event.job is None:
            self._started(event.slot, error)
        elif isinstance(error, WorkerDiedError):
            settled = self._bury(event.slot, error)
        else:
            slot.jobs.discard(event.job)
            slot.answered, slot.failed_starts = self._clock(), 0
            outcome = Failure(f"{type(error).__name__}: {error}", retry=True) if error else event.future.result()
            settled = self._settle(event.job, outcome)
        self._dispatch()
        return settled

    def kill_stalled(self) -> None:
        """End workers that answer nothing or do not come up; their futures then tell of a death."""
        for slot in self._slots:
            if (slot.jobs or not slot.ready) and self._clock() - slot.answered > self._stall:
                slot.answered = self._clock()
                slot.handle.kill()

    def _settle(self, job: Job, outcome: Outcome) -> list[tuple[Job, Outcome]]:
        if isinstance(outcome, Failure) and outcome.retry:
            job.attempts += 1
            if job.attempts < self._max:
                self._waiting.append(job)
                return []
        return [(job, outcome)]

    def _bury(self, index: int, error: WorkerDiedError) -> list[tuple[Job, Outcome]]:
        slot = self._slots[index]
        settled: list[tuple[Job, Outcome]] = []
        for job in slot.jobs:
            job.deaths += 1
            if job.deaths >= self._max:
                settled.append((job, Failure(f"its policy worker died {job.deaths} times; last: {error}")))
            else:
                (self._suspects if job.deaths > 1 else self._waiting).append(job)
        slot.jobs = set()
        self.restarts += 1
        self._restart(index)
        return settled

    def _restart(self, index: int) -> None:
        slot = self._slots[index]
        slot.generation, slot.ready = slot.generation + 1, False
        slot.handle.kill()  # one that is merely out of reach would keep its GPU
        slot.handle, slot.answered = self._make(index), self._clock()
        self._watch(index, None, slot.handle.start())

    def _started(self, index: int, error: BaseException | None) -> None:
        slot = self._slots[index]
        if error is None:
            slot.ready, slot.answered = True, self._clock()
            return
        slot.failed_starts += 1
        if slot.failed_starts >= self._max:
            raise WorkerError(
                f"policy worker {index} died and could not be started again ({slot.failed_starts} times; last: "
                f"{error}); what is finished is on disk, and the same command goes on from there"
            ) from error
        self._restart(index)

    def _dispatch(self) -> None:
        """Give waiting dialogues to workers with room; a suspect only to an idle one, that gets nothing beside it."""
        alone = {i for i, s in enumerate(self._slots) if any(j.deaths > 1 for j in s.jobs)}
        usable = [i for i, s in enumerate(self._slots) if s.ready and i not in alone]
        if self._suspects and usable and not alone:
            emptiest = min(usable, key=lambda i: len(self._slots[i].jobs))
            usable.remove(emptiest)  # drained, if it is not idle yet
            if not self._slots[emptiest].jobs:
                self._give(emptiest, self._suspects.popleft())
        while self._waiting:
            free = [i for i in usable if len(self._slots[i].jobs) < self.capacity]
            if not free:
                return
            job = self._waiting.popleft()
            self._give(self._choose(job.sample.clip.name, free), job)

    def _choose(self, clip: str, free: list[int]) -> int:
        home = self._home.pop(clip, None)
        if home is None or home not in free:
            home = min(free, key=lambda i: len(self._slots[i].jobs))
        self._home[clip] = home
        if len(self._home) > REMEMBERED_CLIPS:
            self._home.popitem(last=False)
        return home

    def _give(self, index: int, job: Job) -> None:
        slot = self._slots[index]
        if not slot.jobs:
            slot.answered = self._clock()
        slot.jobs.add(job)
        self._watch(index, job, slot.handle.run(job.sample.to_dict(), job.settings))

    def _watch(self, index: int, job: Job | None, future: Future[Any]) -> None:
        generation = self._slots[index].generation
        future.add_done_callback(lambda done: self._post(Event(index, generation, job, done)))
