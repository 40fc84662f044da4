"""Kills: a pool worker under box dialogues; the whole job, then vLLM's engine, under ``videoseg eval``."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from data_construction.synthetic import make_synthetic
from eval.inference.cluster import Cluster
from eval.inference.run import infer
from eval.results.results_file import read_results
from rewards.pool import SegmenterPool
from tests.eval.clips import samples
from tests.eval.inference.test_run_stream import cluster_of
from tests.eval.scripted import true_box
from tests.rewards.segmenter.conftest import SMALL, random_segmenter

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]
VIDEOSEG = str(Path(sys.executable).with_name("videoseg"))
SECONDS = 900


def test_box_dialogues_through_a_real_pool_whose_worker_is_killed(tmp_path: Path) -> None:
    expressions = samples(tmp_path / "frames")
    say = true_box({(s.clip.name, s.expression.id): s for s in expressions})
    direct, _, _ = cluster_of(say)
    expected = infer(direct, expressions, tmp_path / "direct")
    ray.shutdown()  # what a test before it in this process has left
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
    try:
        with SegmenterPool(SMALL, random_segmenter().sam2_model.state_dict(), num_cpus=1) as pool:
            local, worker, _ = cluster_of(say)
            cluster = Cluster(local.fleet, local.events, pool, local.scoring)
            killed: list[int] = []

            def kill_once(done: int, total: int, what: str) -> None:
                if done >= 2 and not killed:
                    killed.append(done)
                    for actor in pool.workers():
                        ray.kill(actor)

            done = infer(cluster, expressions, tmp_path / "out", progress=kill_once)
            assert killed and pool.restarts == 1
    finally:
        ray.shutdown()
    assert (done.done, done.failed) == (12, 0) and len(worker.asked) == 12
    masks = {r.key: r.prediction for r in read_results(expected.results)}
    assert {r.key: r.prediction for r in read_results(done.results)} == masks


class Evaluation:
    """A running ``videoseg eval`` and everything that it started."""

    def __init__(self, arguments: list[str], out: Path, log: Path) -> None:
        self.results, self.log = out / "results.jsonl", log
        env = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
        with log.open("w") as said:
            self.process = psutil.Popen([VIDEOSEG, "eval", *arguments], stdout=said, stderr=said, env=env)
        self.family: set[psutil.Process] = set()
        self.deadline = time.monotonic() + SECONDS

    def wait_for(self, what: Callable[[], Any]) -> Any:
        """Until ``what()`` holds; fails if the process ends or takes too long."""
        looked = 0.0
        while not (found := what()):
            if time.monotonic() - looked > 0.5:  # listing a family is slow beside what is waited for
                self.family.update(self.process.children(recursive=True))
                looked = time.monotonic()
            if time.monotonic() > self.deadline or self.process.poll() is not None:
                pytest.fail(f"exit code {self.process.poll()}; it said:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.01)
        return found

    def lines(self) -> int:
        return self.results.read_bytes().count(b"\n") if self.results.is_file() else 0

    def engine(self) -> psutil.Process | None:
        self.family.update(self.process.children(recursive=True))
        return next((p for p in self.family if p.is_running() and "EngineCore" in p.name()), None)

    def left(self) -> list[str]:
        """What still runs some time after its end."""
        self.process.wait(SECONDS)
        _, alive = psutil.wait_procs([p for p in self.family if p.is_running()], timeout=30)
        agents = ("Agent", "dashboard")  # Ray's own, which take their time to notice; they hold nothing
        left = [p for p in alive if p.status() != psutil.STATUS_ZOMBIE and not any(a in p.name() for a in agents)]
        return [f"{p.pid} {p.name()}" for p in left]


def test_a_killed_job_and_a_killed_engine_lose_only_what_was_under_way(
    tiny_policy: Path, tiny_recipe_file: Path, tmp_path: Path
) -> None:
    out, root = tmp_path / "out", tmp_path / "data"
    # enough work that a kill comes in its midst, also when this process is slow to look
    make_synthetic(root, {"train": 1, "valid": 3}, seed=3, frames=(12, 12), size=48)
    data = {"dataset": "revos", "root": str(root), "split": "valid"}
    arguments = [str(tiny_policy), "--dataset", "revos", "--root", str(root), "--split", "valid"]
    arguments += ["--recipe", str(tiny_recipe_file), "--out", str(out), "--set", "stage=sft"]
    arguments += ["--set", f"data=[{json.dumps(data)}]", "--set", "rollout.engine.max_num_seqs=2"]
    arguments += ["--set", "rollout.turn_length=48"]

    first = Evaluation(arguments, out, tmp_path / "first.log")
    first.wait_for(lambda: first.lines() >= 2)
    first.engine()
    first.process.send_signal(signal.SIGKILL)
    assert first.left() == [], "a killed job leaves no process that holds a GPU"
    kept = read_results(out / "results.jsonl")
    assert len(kept) >= 2

    second = Evaluation(arguments, out, tmp_path / "second.log")
    engine = second.wait_for(second.engine)
    second.wait_for(lambda: second.lines() > len(kept))
    engine.send_signal(signal.SIGKILL)
    assert second.process.wait(SECONDS) == 0, second.log.read_text()[-3000:]
    records = read_results(out / "results.jsonl")
    assert records[: len(kept)] == kept, "what was finished is not done again"
    scores = json.loads((out / "scores.json").read_text())
    assert len({r.key for r in records}) == len(records) == scores["info"]["expressions"] and not scores["missing"]
    assert not (out / "failed.jsonl").exists()
    assert second.left() == []
