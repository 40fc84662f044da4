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
