"""The pool when Ray misbehaves, with Ray's functions replaced: which errors mean a dead worker, and what then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, OutOfMemoryError, RayError, RayTaskError

from rewards.pool import SegmenterPool, pool, start
from rewards.segmenter.config import SegmenterConfig
from rewards.segmenter.types import SegRequest
from rollout.errors import WorkerError
from rollout.types import Clip, Masklets

KILLED = OutOfMemoryError("killed by Ray's memory monitor")  # no RayActorError


class Worker:
    """An actor's handle: every method call is a promise that `ray.get` redeems."""

    def __init__(self, cluster: Cluster, decoder: Any) -> None:
        self.cluster, self.decoder, self.alive = cluster, decoder, True
        self.number = len(cluster.workers)

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(remote=lambda *given: partial(self._do, method, *given))

    def _do(self, method: str, *given: Any) -> Any:
        if not self.alive:
            raise ActorDiedError()
        if errors := self.cluster.errors.get((self.number, method)):
            raise errors.pop(0)
        return [f"worker {self.number}, decoder {self.decoder}"] * len(given[0]) if method == "score" else True


class Cluster:
    """What a test says of Ray. ``errors``: by (worker's number, method), what its calls raise, one after another."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.workers: list[Worker] = []
        self.errors: dict[tuple[int, str], list[Exception]] = {}
        self.never_ready = False
        self.waited: list[float | None] = []
        """How long each answer would have been waited for."""
        self.resources = {"CPU": 8.0, "GPU": 2.0}
        fakes: dict[str, Callable[..., Any]] = {
            "remote": lambda _: SimpleNamespace(options=lambda **__: SimpleNamespace(remote=self.start)),
            "put": lambda x: x,
            "get": self.get,
            "wait": lambda refs, **_: ([], refs) if self.never_ready else (refs, []),
            "kill": lambda worker: setattr(worker, "alive", False),
            "is_initialized": lambda: True,
            "cluster_resources": lambda: self.resources,
            "available_resources": lambda: {"CPU": 1.0},
        }
        for name, fake in fakes.items():
            monkeypatch.setattr(ray, name, fake)
        monkeypatch.setattr(pool, "RESTART_PAUSE_S", 0.0)

    def get(self, ref: Any, timeout: float | None = None) -> Any:
        self.waited.append(timeout)
        return [r() for r in ref] if isinstance(ref, list) else ref()

    def start(self, settings: Any, weights: Any, decoder: Any) -> Worker:
        self.workers.append(Worker(self, decoder))
        return self.workers[-1]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


def requests(count: int = 1) -> Sequence[SegRequest]:
    clip = Clip("ducks", ("0.jpg",), 4, 4)
    return [SegRequest(clip, Masklets(4, 4, ((None,),), 1), (0,), [None], (0,)) for _ in range(count)]


@pytest.mark.parametrize("error", [KILLED, ActorDiedError(), RayError("lost")], ids=lambda e: type(e).__name__)
def test_whatever_kills_a_worker_is_no_fault_of_its_requests(cluster: Cluster, error: Exception) -> None:
    cluster.errors = {(0, "score"): [error]}
    with SegmenterPool(SegmenterConfig()) as made:
        assert made.score(requests(3)) == ["worker 1, decoder None"] * 3
        assert made.restarts == 1 and not cluster.workers[0].alive


def test_a_hung_worker_is_killed_and_replaced(cluster: Cluster) -> None:
    """Ray says so once the time is over that is right for the frames asked for."""
    cluster.errors = {(0, "score"): [GetTimeoutError("no answer yet")]}
    with SegmenterPool(SegmenterConfig()) as made:
        cluster.waited.clear()
        assert made.score(requests(3)) == ["worker 1, decoder None"] * 3
        assert made.restarts == 1 and not cluster.workers[0].alive
    assert cluster.waited[0] == pool.STALL_S + 3 * pool.STALL_S_A_FRAME


def test_a_request_that_outlives_no_worker_fails_with_what_killed_the_last(cluster: Cluster) -> None:
    cluster.errors = {(n, "score"): [KILLED] for n in range(3)}
    with SegmenterPool(SegmenterConfig(), max_retries=2) as made:
        with pytest.raises(WorkerError, match=r"clip ducks: SegRequest failed: its worker died 3 times.*monitor"):
            made.score(requests())
        assert made.score(requests()) == ["worker 3, decoder None"]


def test_an_error_of_the_code_stays_the_requests(cluster: Cluster) -> None:
    cluster.errors = {(0, "score"): [RayTaskError("score", "traceback", ValueError("wrong shape"))]}
    with SegmenterPool(SegmenterConfig()) as made:
        with pytest.raises(WorkerError, match="SegRequest failed: wrong shape"):
            made.score(requests())
        assert made.restarts == 0


def test_a_worker_killed_while_it_loads_weights_has_a_successor_with_them(cluster: Cluster) -> None:
    cluster.errors = {(0, "load_decoder"): [KILLED]}
    with SegmenterPool(SegmenterConfig()) as made:
        made.load_decoder({})
        assert made.score(requests()) == ["worker 1, decoder {}"]


def test_no_worker_starts_while_the_pool_closes(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.errors = {(0, "score"): [KILLED]}
    made = SegmenterPool(SegmenterConfig())
    pausing, closing = threading.Event(), threading.Event()

    def pause(_: float) -> None:
        pausing.set()
        assert closing.wait(10)

    monkeypatch.setattr(pool.time, "sleep", pause)
    (future,) = made.submit(requests())
    assert pausing.wait(10)
    closer = threading.Thread(target=made.close)
    closer.start()
    end = time.monotonic() + 10
    while not made._closing and time.monotonic() < end:
        pass
    closing.set()
    closer.join(10)
    assert isinstance(future.exception(10), WorkerError)
    assert not any(worker.alive for worker in cluster.workers)


@pytest.mark.parametrize(
    ("workers", "gpus", "message"),
    [
        (4, 1.0, r"4 of 4 segmenter workers .* did not start .*too small, they need 4 GPUs, it has 2"),
        (2, 1.0, r"2 of 2 segmenter workers .*others hold.* Free are 1 CPUs and 0 GPUs\. Lower pool\.workers"),
        (16, 0.0, "they need 16 CPUs, it has 8"),
    ],
)
def test_a_pool_that_finds_no_room_says_what_there_is(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, workers: int, gpus: float, message: str
) -> None:
    cluster.never_ready = True
    for limit in ("GROWTH_LIMIT_S", "START_LIMIT_S"):
        monkeypatch.setattr(start, limit, 0.0)
    with pytest.raises(WorkerError, match=message):
        SegmenterPool(SegmenterConfig(), num_workers=workers, num_gpus=gpus)
    assert not any(worker.alive for worker in cluster.workers)


def test_a_small_cluster_has_time_to_grow(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.never_ready, cluster.resources = True, {}
    looks = iter(range(3))

    def grow() -> dict[str, float]:
        cluster.never_ready = next(looks) < 2
        return {}

    monkeypatch.setattr(ray, "cluster_resources", grow)
    SegmenterPool(SegmenterConfig()).close()
    assert next(looks, None) is None
