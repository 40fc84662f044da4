"""Ray's job API on a two-node cluster: stopped by Ray's TERM, saved, submitted again, the undisturbed run's numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cluster.ray_cluster import RayCluster
from verl_ext.run.checkpoints import tracked_step

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    started = RayCluster()
    yield started
    started.close()


def test_a_job_that_ray_ends_goes_on_with_the_same_numbers(
    cluster: RayCluster, launcher: Callable[[dict[str, str]], Any]
) -> None:
    run = launcher({"RAY_API_SERVER_ADDRESS": cluster.dashboard, "RAY_AUTH_MODE": "disabled"})
    # variables that we set too: Ray alone would die in "Failed to merge the Job's runtime env"
    environment = "cluster.environment={TOKENIZERS_PARALLELISM: 'true', OMP_NUM_THREADS: '1', RAY_DEDUP_LOGS: '1'}"
    settings = ["cluster.kind=ray_job", "cluster.grace_seconds=900", environment]
    run.launch("whole", "grpo", *settings)
    assert "finished" in run.wait_for_end("whole")
    run.launch("cut", "grpo", *settings)
    run.wait_for_step("cut", 1)
    run.videoseg("launch", "stop", "cut", "--now")  # Ray's own stop: TERM to every process of the job
    assert "stopped on request" in run.wait_for_end("cut")
    saved = tracked_step(run.out("cut"))
    assert saved is not None and saved < 4
    run.launch("cut", "grpo", *settings)
    run.wait(lambda: run.steps("cut").keys() >= {4}, "step 4 did not come")
    run.wait(lambda: "SUCCEEDED" in run.state("cut"), "not finished")
    assert json.loads((run.out("cut") / "result.json").read_text())["finished"]
    run.tell("ray_job")
    run.same("grpo", "whole", "cut")


def test_a_machine_that_leaves_mid_run_is_told_and_the_last_checkpoint_stays(
    cluster: RayCluster, launcher: Callable[[dict[str, str]], Any]
) -> None:
    """The last test of this file: the second node is gone afterwards."""
    run = launcher({"RAY_API_SERVER_ADDRESS": cluster.dashboard, "RAY_AUTH_MODE": "disabled"})
    settings = ["cluster.kind=ray_job", "trainer.steps=200", "cluster.environment={RAY_START_SECONDS: '20'}"]
    run.launch("lost", "grpo", *settings, "trainer.save_every=1")
    run.wait(lambda: tracked_step(run.out("lost")) is not None, "nothing was saved")
    cluster.lose_the_second()
    run.wait(lambda: "FAILED" in run.state("lost"), "it did not notice", 300)
    said = run.videoseg("launch", "logs", "lost")
    assert "training failed" in said and "died" in said, said[-3000:]
    step = tracked_step(run.out("lost"))
    assert step is not None and (run.out("lost") / f"checkpoints/global_step_{step}/policy/config.json").is_file()
    run.launch("lost", "grpo", *settings)  # and one machine is too few
    run.wait(lambda: "FAILED" in run.state("lost"), "it did not notice", 300)
    assert "the Ray cluster has 1 machine(s) with 1 GPUs, but 2 are needed" in run.videoseg("launch", "logs", "lost")
    run.tell("ray_lost")
