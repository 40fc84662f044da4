"""A run watches its workers, owns its results, and does not try again what cannot succeed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from eval.inference.dialogue import Dialogue
from eval.inference.pipeline import Broken
from eval.inference.run import infer, keep
from eval.inference.worker import PolicyWorker
from eval.results.failures import Failure
from eval.results.results_file import ResultsFile
from rollout.errors import DataError, RecipeError
from rollout.types import Clip, Expression, Sample
from tests.eval.clips import samples
from tests.eval.inference.test_run_stream import cluster_of
from tests.eval.scripted import box_reply

SAMPLE = Sample(Clip("c", ("0.jpg",), 4, 4), Expression("0", "the cat")).to_dict()


@pytest.fixture
def expressions(tmp_path: Path) -> list[Sample]:
    return samples(tmp_path / "frames")


def test_hung_workers_are_looked_for_while_others_keep_answering(
    expressions: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eval.inference.pipeline.TICK_SECONDS", 0.0)
    cluster, _, _ = cluster_of(lambda sample: box_reply(0))
    looked: list[int] = []
    monkeypatch.setattr(cluster.fleet, "kill_stalled", lambda: looked.append(1))
    infer(cluster, expressions, tmp_path)
    assert len(looked) >= len(expressions)


def test_the_results_are_ours_before_anything_is_written_beside_them(expressions: list[Sample], tmp_path: Path) -> None:
    def told() -> None:
        with pytest.raises(DataError, match="another job"):
            ResultsFile(tmp_path / "results.jsonl")
        assert not (tmp_path / "results.jsonl").read_bytes()

    cluster, _, _ = cluster_of(lambda sample: box_reply(0))
    assert infer(cluster, expressions[:1], tmp_path, on_open=told).done == 1
    (tmp_path / "results.jsonl").write_bytes((tmp_path / "results.jsonl").read_bytes() + b'{"clip')
    kept = keep(tmp_path, [Broken("clip9", "expression 0", DataError("no text"))])
    assert (kept.done, kept.failed, kept.dropped_bytes) == (1, 1, 6)


def test_workers_that_died_meanwhile_are_counted(expressions: list[Sample], tmp_path: Path) -> None:
    cluster, _, pool = cluster_of(lambda sample: box_reply(0))
    pool.restarts = 3  # of an earlier benchmark

    def die(done: int, total: int, what: str) -> None:
        pool.restarts = 5

    assert infer(cluster, expressions[:2], tmp_path, progress=die).restarts == 2


def test_a_message_that_does_not_fit_fails_and_is_not_tried_again() -> None:
    class Worker(PolicyWorker):
        def __init__(self) -> None:
            self._slots = asyncio.Semaphore(1)

        async def _run(self, *_: Any) -> Dialogue:
            raise RecipeError("the first message does not fit 40 tokens")

    outcome = asyncio.run(Worker().run(SAMPLE))
    assert outcome == Failure("the first message does not fit 40 tokens", "dialogue", retry=False)
