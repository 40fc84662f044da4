"""Masks for dialogues in other processes: a real Ray actor between them and the pool."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from rewards.pool.desk import DESK, Desk, DeskServer, find_desk
from rewards.segmenter import BoxRequest, RequestScorer
from rewards.segmenter.types import PropagateRequest
from rollout.errors import DataError, WorkerError
from rollout.types import Clip, Masklets
from tests.rewards.segmenter.clips import FRAMES, write_clip
from tests.rewards.segmenter.conftest import random_segmenter

NAMES = count()
BOX = (8.0, 5.0, 20.0, 17.0)


class Pool:
    """The pool's interface over a segmenter in this process; waits until it may go on."""

    def __init__(self) -> None:
        self.scorer = RequestScorer(random_segmenter())
        self.calls: list[int] = []
        self.go = threading.Event()
        self.go.set()
        self.broken = False

    def submit(self, requests: Sequence[Any]) -> list[Future[Any]]:
        self.go.wait()
        if self.broken:
            raise WorkerError("the pool is closed")
        self.calls.append(len(requests))
        futures: list[Future[Any]] = [Future() for _ in requests]
        for future, answer in zip(futures, self.scorer.score(requests), strict=True):
            future.set_exception(answer) if isinstance(answer, Exception) else future.set_result(answer)
        return futures


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.shutdown()
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
    yield
    ray.shutdown()


@pytest.fixture
def served(cluster: None) -> Iterator[tuple[Pool, DeskServer]]:
    pool = Pool()
    server = DeskServer(lambda: pool, name=f"desk {next(NAMES)}")  # a killed actor keeps its name for a while
    yield pool, server
    server.close()


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> tuple[Clip, Masklets]:
    return write_clip(tmp_path_factory.mktemp("clips"))


def asking(clip: Clip, keyframe: int = 2) -> BoxRequest:
    return BoxRequest(clip, range(FRAMES), keyframe, [BOX], None, with_masks=True)


def test_dialogues_get_the_pools_own_masks_and_wait_together(
    served: tuple[Pool, DeskServer], squares: tuple[Clip, Masklets]
) -> None:
    pool, server = served
    requests = [asking(squares[0], k) for k in range(5)]
    pool.go.clear()
    answers = [server.desk.ask.remote(request) for request in requests]
    while len(ray.get(server.desk.asked.remote())) < 5:  # as many dialogues are waiting
        pass
    pool.go.set()
    expected = RequestScorer(random_segmenter()).score(requests)
    assert [a.rles for a in ray.get(answers)] == [e.rles for e in expected]  # type: ignore[union-attr]
    assert sum(pool.calls) == 5 and len(pool.calls) < 5, "what waited was asked together"


def test_what_waits_is_taken_together_and_answered_one_by_one(squares: tuple[Clip, Masklets]) -> None:
    """The desk itself, without Ray around it."""

    async def talk() -> list[Any]:
        desk = Desk()
        asked = [asyncio.create_task(desk.ask(asking(squares[0], k))) for k in (1, 2, 3)]
        await asyncio.sleep(0)
        taken = await desk.take()
        assert [request.keyframe for _, request in taken] == [1, 2, 3] and len(await desk.asked()) == 3
        await desk.answer(taken[1][0], DataError("a frame is missing"))
        await desk.answer(taken[0][0], "masks")
        await desk.answer(99, "of nobody")
        await desk.close()
        assert await desk.take() == []
        found = await asyncio.gather(*asked, desk.ask(asking(squares[0])), return_exceptions=True)
        return [str(answer) for answer in found]

    first, second, third, late = asyncio.run(talk())
    assert (first, second) == ("masks", "a frame is missing")
    assert "closed before these masks were drawn" in third and "clip squares: the pool was closed" in late


def test_states_are_made_ready_where_the_pool_is(cluster: None, squares: tuple[Clip, Masklets]) -> None:
    """Dialogues send a language model's; a request without one stays as it is."""
    pool = Pool()
    states = np.random.default_rng(0).normal(size=(2, pool.scorer.segmenter.prompt_width)).astype(np.float32)
    server = DeskServer(lambda: pool, name=f"desk {next(NAMES)}", project=lambda hidden: hidden[1:] * 2)
    requests = [PropagateRequest(squares[0], 2, np.append(np.float32(0), state / 2)) for state in states]
    requests.append(PropagateRequest(squares[0], 2, None))
    found = ray.get([server.desk.ask.remote(replace(r, with_masks=True)) for r in requests])
    expected = RequestScorer(random_segmenter()).score(
        [PropagateRequest(squares[0], 2, state, with_masks=True) for state in (*states, None)]
    )
    assert [a.rles for a in found] == [e.rles for e in expected]  # type: ignore[union-attr]
    assert found[0].rles != found[1].rles
    server.close()


def test_ground_truth_does_not_get_past_it(served: tuple[Pool, DeskServer], squares: tuple[Clip, Masklets]) -> None:
    clip, masklets = squares
    for request in (replace(asking(clip), masklets=masklets), replace(asking(clip), masklets=masklets, judged=(0,))):
        with pytest.raises(ValueError, match="clip squares: masks for a dialogue are drawn without ground truth"):
            ray.get(served[1].desk.ask.remote(request))
    assert served[0].calls == []
    judged = ray.get(served[1].desk.judge.remote(replace(asking(clip), masklets=masklets)))  # nobody is shown a score
    assert len(judged.ious) == FRAMES and served[0].calls == [1]


def test_errors_reach_the_dialogue_that_asked(
    served: tuple[Pool, DeskServer], squares: tuple[Clip, Masklets], tmp_path: Path
) -> None:
    gone, _ = write_clip(tmp_path, "gone")
    Path(gone.frames[3]).unlink()
    pool, server = served
    bad, good = server.desk.ask.remote(asking(gone)), server.desk.ask.remote(asking(squares[0]))
    with pytest.raises(DataError, match=r"gone.*frame 3"):
        ray.get(bad)
    assert len(ray.get(good).rles) == FRAMES
    pool.broken = True
    with pytest.raises(WorkerError, match="the pool is closed"):
        ray.get(server.desk.ask.remote(asking(squares[0])))


def test_who_waits_when_it_closes_hears_of_it(cluster: None, squares: tuple[Clip, Masklets]) -> None:
    pool = Pool()
    server = DeskServer(lambda: pool)
    pool.go.clear()
    waiting = find_desk(DESK).ask.remote(asking(squares[0]))
    while not ray.get(server.desk.asked.remote()):
        pass
    ray.get(server.desk.close.remote())
    with pytest.raises(WorkerError, match="closed before these masks were drawn"):
        ray.get(waiting)
    pool.go.set()
    server.close()
    with pytest.raises(WorkerError, match="no segmenter pool draws them here"):
        find_desk()
