"""Jobs by name, a run in the background for real, and what a cluster block may say."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest

from rollout.errors import RecipeError, WorkerError
from tests.verl_ext.launch.snapshots import ROOT
from verl_ext.launch import jobs
from verl_ext.launch.scheduler import HELD, Submitted
from verl_ext.recipe import Recipe, load_recipe
from verl_ext.recipe.cluster_checks import seconds_of
from verl_ext.run.cluster import missing, too_few
from verl_ext.run.run_files import STOP_FILE, write_result
from verl_ext.run.stop import ask_to_stop

O3 = ROOT / "recipes/videoseg_o3/grpo_2b.yaml"
SFT = ROOT / "recipes/videoseg_o3/sft_2b.yaml"
KUBE = ["cluster.kind=kuberay", "cluster.image=i", "cluster.mounts=[runs:/runs]", "output_dir=/runs/x"]


@pytest.mark.parametrize(
    ("recipe", "overrides", "said"),
    [
        (O3, ["cluster.kind=slurm", "cluster.nodes=4"], ["cluster.nodes: 4 machines", "trainer.nodes 1"]),
        (O3, ["cluster.gpus_per_node=4"], ["cluster.gpus_per_node: 4 GPUs", "trainer.gpus_per_node 8"]),
        (O3, ["cluster.kind=ray_job", "cluster.partition=gpu"], ["cluster.partition: 'gpu'", "ray_job", "slurm has"]),
        (O3, ["cluster.kind=slurm", "cluster.time=24:00:00"], ["cluster.time: found 86400 (int)", "in quotes"]),
        (O3, ["cluster.kind=slurm", "cluster.time='24h'"], ["cluster.time: '24h'", "24:00:00"]),
        (O3, ["cluster.kind=slurm", "cluster.time='0:05:00'"], ["= 300 s", "cluster.grace_seconds 300"]),
        (O3, ["cluster.kind=slurm", "cluster.mounts=[/a:/b]"], ["cluster.mounts", "without cluster.image"]),
        (O3, ["cluster.kind=slurm", "cluster.image=i", "cluster.mounts=[pvc:/b]"], ["cluster.mounts[0]: 'pvc:/b'"]),
        (O3, ["cluster.kind=slurm", "cluster.options=[qos]"], ["cluster.options[0]: 'qos'", "--qos=high"]),
        (O3, ["cluster.kind=slurm", "cluster.options=['--nodes=7']"], ["cluster.options[0]", "trainer.nodes says"]),
        (O3, ["cluster.kind=slurm", "cluster.options=['--qos=a','-p x']"], ["cluster.options[1]", "cluster.partition"]),
        (O3, ["cluster.environment={'A B': x}"], ["'A B' is no name of a variable"]),
        (O3, ["cluster.environment={RAY_ADDRESS: x}"], ["cluster.environment.RAY_ADDRESS: is set by videoseg launch"]),
        (O3, ["cluster.environment={A: 1}"], ["cluster.environment.A: found 1 (int)", "in quotes"]),
        (O3, [*KUBE[1:], "cluster.kind=kuberay", "output_dir=runs/x"], ["output_dir: runs/x", "/runs"]),
        (O3, [*KUBE, "cluster.mounts=[runs:/runs:ro]"], ["output_dir: /runs/x", "can be written"]),
        (O3, [*KUBE, "cluster.image=null"], ["cluster.image: null with kind: kuberay"]),
        (O3, [*KUBE, "cluster.mounts=[runs]"], ["cluster.mounts[0]: 'runs'"]),
        (SFT, [*KUBE, "trainer.nodes=2"], ["stage: sft over trainer.nodes 2", "kind: slurm"]),
        (O3, ["cluster.nodes=0"], ["cluster.nodes: 0 is too small"]),
        (O3, ["cluster.kind=slrum"], ["did you mean 'slurm'?"]),
    ],
)
def test_a_cluster_block_that_cannot_be_is_refused_with_its_key(
    recipe: Path, overrides: list[str], said: list[str]
) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe, overrides)
    assert all(part in str(caught.value) for part in said), caught.value


def test_sizes_that_agree_and_a_block_that_says_nothing_are_fine() -> None:
    recipe = load_recipe(O3, ["cluster.kind=slurm", "cluster.nodes=1", "cluster.gpus_per_node=8"])
    assert (recipe.cluster.nodes, recipe.cluster.gpus_per_node) == (1, 8)
    assert load_recipe(O3, ["trainer.nodes=2", "trainer.actor_processes=8"]).cluster.nodes is None


@pytest.mark.parametrize(
    ("time", "seconds"), [("24:00:00", 86400), ("2-01:00:30", 176430), ("0:00:01", 1), ("90", None), ("1:99:00", None)]
)
def test_times(time: str, seconds: int | None) -> None:
    assert seconds_of(time) == seconds


def test_one_machine_is_not_two() -> None:
    recipe = load_recipe(O3, ["trainer.nodes=2", "trainer.actor_processes=8"])
    with pytest.raises(RecipeError, match=r"cluster.kind: local, but trainer.nodes is 2"):
        jobs.job_of(recipe)


def test_an_output_folder_is_absolute_before_a_scheduler_sees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for kind in ("local", "ray_job", "slurm"):
        job = jobs.job_of(load_recipe(O3, [f"cluster.kind={kind}", "output_dir=runs/x"]))
        assert job.recipe.output_dir == str(tmp_path / "runs/x")
    job = jobs.job_of(load_recipe(O3, ["cluster.kind=slurm", "output_dir=runs/x", "cluster.folder=/there"]))
    assert (job.project, job.recipe.output_dir) == ("/there", "/there/runs/x")


@pytest.mark.parametrize(
    ("name", "job"), [("grpo_4b", "grpo-4b"), ("A b.c_", "a-b-c"), ("x" * 60, "x" * 40), ("__", "run")]
)
def test_names_that_every_scheduler_takes(name: str, job: str) -> None:
    assert jobs.job_name(name) == job


def tool(folder: Path, name: str, body: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/bash\n{body}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


def launched(tmp_path: Path, kind: str, id: str) -> Path:
    """A job that was submitted before."""
    folder = tmp_path / "launches" / "one"
    folder.mkdir(parents=True)
    record = Submitted(kind, id, str(tmp_path / "out"), "", "default")
    (folder / jobs.RECORD).write_text(json.dumps(asdict(record)))
    return folder


def test_without_the_schedulers_programs_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    job = jobs.job_of(load_recipe(O3, ["cluster.kind=slurm", "name=one"]), tmp_path / "launches")
    with pytest.raises(WorkerError, match=r"sbatch is not on this machine's PATH; .*login node"):
        jobs.submit(job)


def test_a_refusal_of_the_scheduler_is_told_in_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    tool(tmp_path, "sbatch", "echo 'error: invalid partition specified: gpu' >&2; exit 1")
    job = jobs.job_of(load_recipe(O3, ["cluster.kind=slurm", "name=one"]), tmp_path / "launches")
    with pytest.raises(WorkerError, match="invalid partition specified: gpu"):
        jobs.submit(job)
    assert not (job.folder / jobs.RECORD).exists()


def test_a_job_that_waits_or_runs_is_not_submitted_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    tool(tmp_path, "sbatch", "echo '7;cluster'")
    tool(tmp_path, "squeue", f"cat {tmp_path}/queue")
    tool(tmp_path, "sacct", "exit 1")
    tool(tmp_path, "scancel", f'echo "$@" >> {tmp_path}/cancelled')
    (tmp_path / "queue").write_text("PENDING Priority")
    job = jobs.job_of(load_recipe(O3, ["cluster.kind=slurm", "name=one"]), tmp_path / "launches")
    assert jobs.submit(job).id == "7"
    with pytest.raises(RecipeError, match=r"one: is there already as slurm job 7 \(PENDING Priority\)"):
        jobs.submit(job)
    assert jobs.stop("one", tmp_path / "launches") == "cancelled before it began"
    assert (tmp_path / "cancelled").read_text() == "7\n"
    assert (job.folder / HELD).exists()
    (tmp_path / "queue").write_text("")
    assert jobs.submit(job).id == "7"
    assert not (job.folder / HELD).exists()


def test_a_running_slurm_job_is_stopped_by_the_stop_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = launched(tmp_path, "slurm", "7")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    tool(tmp_path, "squeue", "echo RUNNING None")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.log").touch()
    assert "saves and ends" in jobs.stop("one", tmp_path / "launches")
    assert (tmp_path / "out" / STOP_FILE).exists() and (folder / HELD).exists()
    assert jobs.state("one", tmp_path / "launches").words == "slurm job 7: RUNNING"


def test_a_kuberay_job_is_told_by_its_status_and_stopped_by_deleting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(tmp_path, "kuberay", "one")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    status = {"jobStatus": "RUNNING", "jobDeploymentStatus": "Running", "rayClusterName": "one-abc"}
    (tmp_path / "status").write_text(json.dumps({"status": status}))
    tool(tmp_path, "kubectl", f'echo "$@" >> {tmp_path}/asked; case "$2" in rayjob) cat {tmp_path}/status;; esac')
    state = jobs.state("one", tmp_path / "launches")
    assert state.active and "RUNNING, cluster Running" in state.words
    assert "ask the run to finish its step" in jobs.stop("one", tmp_path / "launches")
    assert "delete rayjob one --namespace default" in (tmp_path / "asked").read_text().splitlines()[-1]


def test_an_unknown_name_lists_what_there_is(tmp_path: Path) -> None:
    launched(tmp_path, "local", "1")
    with pytest.raises(RecipeError, match=r"two: no such job in .*there are: one"):
        jobs.state("two", tmp_path / "launches")


def test_a_local_job_outlives_the_command_and_says_what_went_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_recipe: Callable[..., Recipe]
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = tiny_recipe("sft", "name=one", f"output_dir={tmp_path / 'out'}", f"policy.path={tmp_path / 'gone'}")
    submitted = jobs.submit(jobs.job_of(recipe))
    end = time.monotonic() + 60
    while jobs.state("one").active and time.monotonic() < end:
        time.sleep(0.2)
    assert jobs.state("one").words == f"local job {submitted.id}: ended"
    assert "gone does not exist" in "\n".join(jobs.logs("one"))
    assert jobs.stop("one") == "it has ended already"


def test_stop_asks_a_run_by_its_folder(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no run was started there"):
        ask_to_stop(tmp_path)
    (tmp_path / "train.log").touch()
    assert not ask_to_stop(tmp_path)
    assert (tmp_path / STOP_FILE).exists()
    (tmp_path / STOP_FILE).unlink()
    write_result(tmp_path, finished=True)
    assert ask_to_stop(tmp_path)
    assert not (tmp_path / STOP_FILE).exists()


def test_a_run_has_ended_when_it_takes_the_wish_away(tmp_path: Path) -> None:
    """Its training process has said how it ended before: the checkpoint's last files are still being written."""
    (tmp_path / "train.log").touch()
    (tmp_path / STOP_FILE).touch()
    write_result(tmp_path, finished=False)
    assert not ask_to_stop(tmp_path)
    with ThreadPoolExecutor(1) as other:
        asked = other.submit(ask_to_stop, tmp_path, 30)
        time.sleep(0.2)
        assert not asked.done()
        (tmp_path / STOP_FILE).unlink()
        assert asked.result()
    assert not (tmp_path / STOP_FILE).exists()


def nodes(*gpus: float, dead: int = 0) -> list[dict[str, object]]:
    alive = [{"Alive": True, "Resources": {"GPU": n} if n else {}} for n in gpus]
    return [*alive, *({"Alive": False, "Resources": {"GPU": 8}} for _ in range(dead))]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (nodes(8, 8), ""),
        (nodes(8, dead=1), "1 machine(s) with 8 GPUs, but 12 are needed: trainer.actor_processes 8 + pool"),
        (nodes(12), "trainer.nodes 2 machines with 4 for the actor are needed"),
        (nodes(0), "with 0 GPUs"),
        ([], "0 machine(s) with 0 GPUs"),
    ],
)
def test_too_few_machines_or_gpus_are_counted(found: list[dict[str, object]], said: str) -> None:
    recipe = load_recipe(O3, ["trainer.nodes=2", "trainer.actor_processes=8"])
    problem = too_few(recipe, found)
    assert said in problem and bool(said) == bool(problem)


def test_a_folder_that_is_not_shared_is_named(tmp_path: Path) -> None:
    (tmp_path / "here").touch()
    assert missing([str(tmp_path / "here"), str(tmp_path / "gone")], seconds=0) == [str(tmp_path / "gone")]
