"""The rendered batch script, run by bash: what happens at Slurm's TERM. Slurm's own programs are stand-ins here.

The real ones are in ``make test-cluster``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.verl_ext.launch.snapshots import ROOT
from verl_ext.launch.jobs import job_of, render
from verl_ext.launch.scheduler import HELD
from verl_ext.recipe import load_recipe

SRUN = """
while [ $# -gt 0 ]; do case "$1" in -w) shift 2;; -*) shift;; *) break;; esac; done
case "$*" in *" train "*) ;; *) exec "$@";; esac
trap 'mkdir -p {checkpoints}; {save}; exit {code}' TERM
echo $$ > {folder}/train.pid
while :; do sleep 0.05; done
"""
SCANCEL = 'case "$1" in --signal=TERM) kill -TERM "$(cat {folder}/train.pid)";; esac'
SCONTROL = 'case "$1" in show) echo n1;; *) echo "$@" >> {folder}/asked;; esac'


@pytest.mark.parametrize(
    ("code", "saves", "held", "requeue", "again", "said"),
    [
        (130, True, False, True, True, "step 7 is saved; queued again"),
        (130, False, False, True, False, "no step was finished and saved in this start (newest checkpoint: none)"),
        (130, True, True, True, False, ""),  # whoever stopped it meant it
        (130, True, False, False, False, ""),  # cluster.requeue=false
        (0, True, False, True, False, ""),  # it was its last step
        (2, True, False, True, False, ""),  # it failed
    ],
)
def test_what_follows_slurms_term(
    tmp_path: Path, code: int, saves: bool, held: bool, requeue: bool, again: bool, said: str
) -> None:
    out = tmp_path / "out"
    settings = ["cluster.kind=slurm", "name=one", f"output_dir={out}", f"cluster.requeue={str(requeue).lower()}"]
    sources = [f"policy.path={tmp_path}", f"data=[{{dataset: revos, root: {tmp_path}, annotations: {tmp_path}}}]"]
    recipe = load_recipe(ROOT / "recipes/videoseg_o3/sft_2b.yaml", [*settings, *sources, "val=[]"])
    job = job_of(recipe, tmp_path / "launches")
    job.folder.mkdir(parents=True)
    if held:
        (job.folder / HELD).touch()
    script = tmp_path / "job.sbatch"
    script.write_text(render(job)["job.sbatch"])
    checkpoints = out / "checkpoints"
    save = f"echo 7 > {checkpoints}/latest_checkpointed_iteration.txt" if saves else ":"
    for name, body in (("srun", SRUN), ("scancel", SCANCEL), ("scontrol", SCONTROL)):
        file = tmp_path / name
        file.write_text(
            "#!/bin/bash" + "\n" + body.format(folder=tmp_path, checkpoints=checkpoints, save=save, code=code)
        )
        file.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "5", "SLURM_JOB_NODELIST": "n1"}
    env |= {"SLURM_CPUS_ON_NODE": "2", "SLURMD_NODENAME": "n1"}
    process = subprocess.Popen(
        ["bash", str(script)], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, umask=0o022
    )
    end = time.monotonic() + 60
    while not (tmp_path / "train.pid").is_file() and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.3)  # the script has set its trap before it started this, the shell that stands for srun after it
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate(timeout=60)
    asked = (tmp_path / "asked").read_text() if (tmp_path / "asked").is_file() else ""
    assert asked == ("requeue 5\n" if again else ""), told
    assert said in told and (bool(said) or "queued again" not in told), told
    assert process.returncode == code, told
    assert not list(out.glob(".job_*"))
    assert out.stat().st_mode & 0o777 == 0o755  # a run's folder is as readable as its owner's umask says


def test_a_folder_that_a_machine_does_not_see_ends_the_job_before_it_trains(tmp_path: Path) -> None:
    recipe = load_recipe(ROOT / "recipes/videoseg_o3/sft_2b.yaml", ["cluster.kind=slurm", f"output_dir={tmp_path}/out"])
    script = tmp_path / "job.sbatch"
    script.write_text(render(job_of(recipe, tmp_path / "launches"))["job.sbatch"])
    for name, body in (("srun", SRUN), ("scontrol", SCONTROL)):
        text = body.format(folder=tmp_path, checkpoints=tmp_path, save=":", code=0)
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}")
        (tmp_path / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "5", "SLURM_JOB_NODELIST": "n1"}
    env |= {"SLURM_CPUS_ON_NODE": "2", "SLURMD_NODENAME": "n1"}
    done = subprocess.run(["bash", str(script)], env=env, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert f"n1 does not see {recipe.policy.path}: put it on a file system that all machines share" in done.stderr
    assert not (tmp_path / "train.pid").exists()


NO_RAY = """
case "$*" in
    *" address") echo 127.0.0.1:1;;
    *" head "*) stat -c %a "$RAY_AUTH_TOKEN_PATH" > {folder}/mode; echo "no port is free" >&2; exit 1;;
    *" wait "*) sleep 60;;
esac
"""


def test_a_ray_that_does_not_start_ends_the_job_with_its_words_and_its_token_was_its_owners(tmp_path: Path) -> None:
    settings = ["cluster.kind=slurm", "name=one", f"output_dir={tmp_path}/out"]
    recipe = load_recipe(ROOT / "recipes/videoseg_o3/grpo_2b.yaml", settings)
    job = job_of(recipe, tmp_path / "launches")
    job.folder.mkdir(parents=True)
    (tmp_path / "job.sbatch").write_text(render(job)["job.sbatch"])
    for name, body in (("srun", NO_RAY), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(f"#!/bin/bash\n{body.format(folder=tmp_path)}")
        (tmp_path / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "5", "SLURM_JOB_NODELIST": "n1"}
    env |= {"SLURM_CPUS_ON_NODE": "2", "SLURMD_NODENAME": "n1"}
    command = ["bash", str(tmp_path / "job.sbatch")]
    said = (tmp_path / "said").open("w")  # not a pipe: the stand-in that sleeps would hold it
    done = subprocess.run(command, env=env, stdout=said, stderr=said, cwd=tmp_path, umask=0o022, timeout=50)
    words = (tmp_path / "said").read_text()
    assert done.returncode == 1
    assert "no port is free" in words and "Ray has not started on n1; what it said is above" in words
    assert (tmp_path / "mode").read_text() == "600\n"
    assert not list(job.folder.glob("ray_token_*"))
