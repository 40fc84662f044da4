"""Dialogues reach workers, survive their deaths, and are never lost or scored when they fail."""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import pytest

from eval.inference.cluster import _wait
from eval.inference.dialogue import Dialogue
from eval.inference.fleet import Event, Fleet, Job, WorkerDiedError
from eval.results.failures import Failure
from rollout.errors import WorkerError
from rollout.types import Clip, Episode, Expression, Sample, StopReason

ANSWER = Dialogue(Episode([], StopReason.ANSWERED, (), 1), [], 1)


class FakeWorker:
    """Answers when told to; ``deadly`` expressions kill it the moment that they arrive."""

    def __init__(self, deadly: set[str], starts: bool = True) -> None:
        self.deadly, self.starts = deadly, starts
        self.held: dict[str, Future[Any]] = {}
        self.most = 0
        self.killed = False

    def start(self) -> Future[Any]:
        out: Future[Any] = Future()
        out.set_result(None) if self.starts else out.set_exception(WorkerDiedError("no memory"))
        return out

    def run(self, sample: dict[str, Any], settings: Mapping[str, Any] | None) -> Future[Any]:
        name = sample["expression"]["id"]
        self.held[name] = future = Future()
        self.most = max(self.most, len(self.held))
        if name in self.deadly:
            self.die()
        return future

    def answer(self, outcome: Dialogue | Failure = ANSWER) -> None:
        self.held.pop(next(iter(self.held))).set_result(outcome)

    def die(self) -> None:
        held, self.held = self.held, {}
        for future in (f for f in held.values() if not f.done()):
            future.set_exception(WorkerDiedError("killed"))

    def kill(self) -> None:
        self.killed = True
        self.die()


def job(name: str, clip: str = "clip") -> Job:
    return Job(Sample(Clip(clip, ("0.jpg",), 4, 4), Expression(name, "the cat")))


class Rig:
    def __init__(
        self, workers: int = 2, capacity: int = 4, make: Callable[[], FakeWorker] | None = None, **more: Any
    ) -> None:
        self.deadly: set[str] = set()
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        make = make or (lambda: FakeWorker(self.deadly))
        first = [FakeWorker(self.deadly) for _ in range(workers)]
        self.fleet = Fleet(lambda slot: make(), first, capacity, self.events.put, **more)
        self.settled: list[tuple[str, Any]] = []

    def workers(self) -> list[FakeWorker]:
        return [h for h in self.fleet.handles if isinstance(h, FakeWorker)]

    def pump(self) -> None:
        while not self.events.empty():
            self.settled += [(j.sample.expression.id, o) for j, o in self.fleet.handle(self.events.get())]

    def finish(self, rounds: int = 1000) -> dict[str, Any]:
        for _ in range(rounds):
            self.pump()
            if not self.fleet.open:
                break
            for worker in self.workers():
                if worker.held:
                    worker.answer()
        assert not self.fleet.open
        assert len({name for name, _ in self.settled}) == len(self.settled), "settled twice"
        return dict(self.settled)


def test_every_dialogue_is_answered_once_and_no_worker_holds_more_than_its_share() -> None:
    rig = Rig(workers=3, capacity=4)
    for i in range(50):
        rig.fleet.submit(job(str(i), f"clip{i // 5}"))
    assert not rig.fleet.room()
    assert rig.finish() == {str(i): ANSWER for i in range(50)}
    assert all(1 < w.most <= 4 for w in rig.workers())


def test_expressions_of_a_clip_share_a_worker_while_it_has_room() -> None:
    rig = Rig(workers=2, capacity=8)
    for i in range(8):
        rig.fleet.submit(job(str(i), f"clip{i % 2}"))
    assert sorted(sorted(w.held) for w in rig.workers()) == [["0", "2", "4", "6"], ["1", "3", "5", "7"]]


def test_a_killed_worker_is_replaced_and_its_dialogues_are_done_again() -> None:
    rig = Rig(workers=2, capacity=4)
    for i in range(8):
        rig.fleet.submit(job(str(i), f"clip{i}"))
    rig.workers()[0].die()
    assert rig.finish() == {str(i): ANSWER for i in range(8)}
    assert rig.fleet.restarts == 1


def test_a_dialogue_that_kills_its_worker_fails_alone() -> None:
    rig = Rig(workers=2, capacity=4)
    rig.deadly.add("13")
    for i in range(30):
        rig.fleet.submit(job(str(i), f"clip{i}"))
    out = rig.finish()
    bad = out.pop("13")
    assert isinstance(bad, Failure) and "died 3 times" in bad.reason and not bad.retry
    assert len(out) == 29 and all(o is ANSWER for o in out.values())
    assert rig.fleet.restarts == 3


def test_a_failure_worth_another_try_is_tried_three_times_and_one_that_is_not_once() -> None:
    rig = Rig(workers=1)
    rig.fleet.submit(job("a"))
    for _ in range(2):
        rig.workers()[0].answer(Failure("out of memory", retry=True))
        rig.pump()
        assert not rig.settled
    rig.workers()[0].answer(Failure("out of memory", retry=True))
    rig.pump()
    assert [(n, o.reason) for n, o in rig.settled] == [("a", "out of memory")]
    rig.fleet.submit(job("b"))
    rig.workers()[0].answer(Failure("frame 3 is broken", "data"))
    rig.pump()
    assert rig.settled[1][0] == "b"


def test_a_worker_that_answers_nothing_is_killed_and_replaced() -> None:
    now = [0.0]
    rig = Rig(workers=2, stall_seconds=10.0, clock=lambda: now[0])
    for name in ("a", "b", "c"):
        rig.fleet.submit(job(name, name))
    hung, busy = sorted(rig.workers(), key=lambda w: len(w.held))
    now[0] = 9.0
    busy.answer()
    rig.pump()
    now[0] = 11.0
    rig.fleet.kill_stalled()
    assert hung.killed and not busy.killed
    assert set(rig.finish()) == {"a", "b", "c"}


class Hanging(FakeWorker):
    """Does not come up."""

    def __init__(self) -> None:
        super().__init__(set())
        self.coming: Future[Any] = Future()

    def start(self) -> Future[Any]:
        return self.coming

    def die(self) -> None:
        super().die()
        if not self.coming.done():
            self.coming.set_exception(WorkerDiedError("killed"))


def test_a_replacement_that_does_not_come_up_is_killed_and_replaced_in_turn() -> None:
    now, made = [0.0], list[FakeWorker]()

    def make() -> FakeWorker:
        made.append(Hanging() if not made else FakeWorker(set()))
        return made[-1]

    rig = Rig(workers=1, stall_seconds=10.0, clock=lambda: now[0], make=make)
    rig.fleet.submit(job("a"))
    now[0] = 100.0
    rig.workers()[0].die()
    rig.pump()
    now[0] = 109.0
    rig.fleet.kill_stalled()
    assert not made[0].killed, "it has its time from when it was asked to start"
    now[0] = 111.0
    rig.fleet.kill_stalled()
    assert made[0].killed
    assert rig.finish() == {"a": ANSWER} and len(made) == 2


def test_a_replacement_that_never_comes_up_ends_the_job() -> None:
    now = [0.0]
    rig = Rig(workers=1, stall_seconds=10.0, clock=lambda: now[0], make=Hanging)
    rig.fleet.submit(job("a"))
    rig.workers()[0].die()
    rig.pump()
    with pytest.raises(WorkerError, match=r"could not be started again \(3 times"):
        for _ in range(9):
            now[0] += 11.0
            rig.fleet.kill_stalled()
            rig.pump()


def test_the_first_start_is_not_waited_for_without_end() -> None:
    with pytest.raises(WorkerError, match=r"did not start within 0\.01 seconds.*ray status"):
        _wait(Future(), 0.01)


def test_late_answers_of_a_replaced_worker_do_not_count_twice() -> None:
    rig = Rig(workers=1, capacity=2)
    rig.fleet.submit(job("a"))
    rig.fleet.submit(job("b"))
    old = rig.workers()[0]
    first, second = old.held.values()
    old.held.clear()  # it is out of reach, and a kill does not reach it either
    first.set_exception(WorkerDiedError("killed"))
    rig.pump()
    second.set_result(ANSWER)
    assert rig.finish() == {"a": ANSWER, "b": ANSWER}


def test_a_worker_that_does_not_start_again_ends_the_job_with_what_to_do() -> None:
    rig = Rig(workers=1, make=lambda: FakeWorker(set(), starts=False))
    rig.fleet.submit(job("a"))
    rig.workers()[0].die()
    with pytest.raises(WorkerError, match=r"could not be started again \(3 times; last: no memory\).*goes on"):
        rig.pump()
