"""Dead workers are found in a real Ray; the pool's own and finished ones are not taken for dead."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import pytest

import verl_ext.run.watchdog as watchdog

CODE = """
import os, time
import ray
from verl_ext.run.watchdog import EXIT_CODE, dead_actors, watch_actors

ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")

class WorkerDict:
    def pid(self): return os.getpid()
    def die(self): os._exit(1)

class SegmenterWorker(WorkerDict):
    pass

worker, other = (ray.remote(c).options(num_cpus=0).remote() for c in (WorkerDict, SegmenterWorker))
ray.get([worker.pid.remote(), other.pid.remote()])
assert dead_actors() == [], dead_actors()
other.die.remote()
time.sleep(1)
assert dead_actors() == [], dead_actors()
print("alive", flush=True)
with watch_actors(every_seconds=0.3):
    worker.die.remote()
    time.sleep(30)
print("never reached", flush=True)
"""


@pytest.mark.e2e
def test_a_dead_worker_ends_the_run_with_its_name() -> None:
    from verl_ext.run.watchdog import EXIT_CODE

    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120)
    assert run.returncode == EXIT_CODE, run.stderr[-2000:]
    assert "alive" in run.stdout and "never reached" not in run.stdout
    words = next(line for line in run.stderr.splitlines() if "a worker died" in line)
    assert "WorkerDict" in words and "--resume" in words
    assert "SegmenterWorker" not in words


class Ray:
    """Answers ``answers`` in turn, then with no dead actors; counts what it was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.asked, self.silent = list(answers), 0, threading.Event()

    def dead_actors(self) -> list[str]:
        self.asked += 1
        if not self.answers:
            self.silent.set()
            return []
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return list(answer)


@pytest.mark.parametrize(
    ("failures", "why"),
    [(watchdog.UNANSWERED - 1, None), (watchdog.UNANSWERED, "Ray did not answer 5 times in a row, at last: gone")],
)
def test_a_check_that_fails_is_done_again_until_nobody_answers(
    failures: int, why: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ray = Ray(*[ConnectionError("gone")] * failures)
    ended = threading.Event()
    monkeypatch.setattr(watchdog, "dead_actors", ray.dead_actors)
    monkeypatch.setattr(watchdog.os, "_exit", lambda code: ended.set())
    with watchdog.watch_actors(every_seconds=0.01):
        assert (ended if why else ray.silent).wait(5)
    assert ended.is_set() == bool(why) and ray.asked >= failures
    assert (f"{watchdog.WORKER_DIED}: {why}" in caplog.text) == bool(why)
    assert f"({failures} of {watchdog.UNANSWERED}): gone" in caplog.text


def test_failures_are_counted_in_a_row_and_a_death_is_still_seen_after_them(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = [ConnectionError("gone")] * (watchdog.UNANSWERED - 1)
    ray = Ray(*lost, [], *lost, ["WorkerDict: killed"])
    codes: list[int] = []
    monkeypatch.setattr(watchdog, "dead_actors", ray.dead_actors)
    monkeypatch.setattr(watchdog.os, "_exit", codes.append)
    with watchdog.watch_actors(every_seconds=0.01):
        assert ray.silent.wait(5)
    assert codes == [watchdog.EXIT_CODE]
