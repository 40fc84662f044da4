"""A two-node Slurm: TERM from the scheduler, saved, queued again by itself, the numbers of an undisturbed run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import STEPS
from tests.cluster.slurm import Slurm
from verl_ext.run.checkpoints import tracked_step

pytestmark = pytest.mark.timeout(3600)
SLURM = ["cluster.kind=slurm", 'cluster.time="2:00:00"', "cluster.grace_seconds=600"]


def job_id(launcher: Any, name: str) -> str:
    record = json.loads((launcher.folder / "runs/launches" / name / "launch.json").read_text())
    return str(record["id"])


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_a_job_that_slurm_ends_goes_on_with_the_same_numbers(
    slurm: Slurm, launcher: Callable[[dict[str, str]], Any], stage: str
) -> None:
    run = launcher(slurm.env)
    run.launch("whole", stage, *SLURM)
    assert "finished" in run.wait_for_end("whole")
    # its Ray had a folder and a token of its own, and they are gone
    assert not Path(f"/tmp/videoseg-{job_id(run, 'whole')}").exists()
    assert not list((run.folder / "runs/launches/whole").glob("ray_token_*"))
    run.launch("cut", stage, *SLURM)
    run.wait_for_step("cut", 1)
    # what --signal=B:TERM@... does when the time is nearly over
    assert slurm.run("scancel", "--batch", "--signal=TERM", job_id(run, "cut")) == ""
    run.wait(lambda: tracked_step(run.out("cut")) is not None, "nothing was saved")
    run.wait(lambda: "queued again" in run.videoseg("launch", "logs", "cut"), "not queued again", 120)
    saved = tracked_step(run.out("cut"))
    assert saved is not None and saved < STEPS[stage]
    slurm.run("scontrol", "update", f"JobId={job_id(run, 'cut')}", "StartTime=now")  # Slurm waits two minutes itself
    assert "finished" in run.wait_for_end("cut")
    log = run.videoseg("launch", "logs", "cut")
    assert "start 1" in log and "start 2" in log
    run.tell(f"slurm_{stage}")
    run.same(stage, "whole", "cut")


def test_a_job_that_is_stopped_is_not_queued_again(slurm: Slurm, launcher: Callable[[dict[str, str]], Any]) -> None:
    run = launcher(slurm.env)
    run.launch("one", "sft", *SLURM, "trainer.steps=2000")
    run.wait_for_step("one", 1)
    assert "saves and ends" in run.videoseg("launch", "stop", "one")
    assert "stopped on request" in run.wait_for_end("one")
    run.wait(lambda: slurm.run("squeue", "--noheader") == "", "it was queued again", 60)
    step = tracked_step(run.out("one"))
    run.launch("one", "sft", *SLURM, "trainer.steps=2000")
    run.wait_for_step("one", step + 1)
    run.videoseg("stop", "one", "--wait", "600")  # by its folder, from anywhere
    assert run.result("one") == {"finished": False, "asked_to_stop": True}
    run.tell("slurm_stop")
