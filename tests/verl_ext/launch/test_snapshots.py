"""Rendered files of every shipped recipe, for every kind of cluster."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.verl_ext.launch.snapshots import FOLDER, KINDS, RECIPES, job_of, names, recipe_of, text_of
from verl_ext.launch.jobs import render
from verl_ext.launch.scheduler import RECIPE_FILE
from verl_ext.recipe import load_recipe


@pytest.mark.parametrize("name", names())
def test_what_is_rendered_is_what_was_looked_at(name: str) -> None:
    written = (FOLDER / f"{name}.txt").read_text()
    assert text_of(name) == written, "look at the change, then: python -m tests.verl_ext.launch.snapshots"


def test_no_snapshot_is_left_of_a_recipe_that_went() -> None:
    assert {p.stem for p in FOLDER.glob("*.txt")} == set(names())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", RECIPES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_the_job_reads_the_recipe_that_was_asked_for(path: Path, kind: str, tmp_path: Path) -> None:
    job = job_of(recipe_of(path, kind))
    files = render(job)
    text = files[RECIPE_FILE]
    if kind == "kuberay":
        config = next(yaml.safe_load_all(files["rayjob.yaml"]))
        text = config["data"]["recipe.yaml"]
    (tmp_path / "recipe.yaml").write_text(text)
    assert load_recipe(tmp_path / "recipe.yaml") == job.recipe


@pytest.mark.parametrize("name", names())
def test_scripts_are_bash(name: str, tmp_path: Path) -> None:
    scripts = [part for part in text_of(name).split("==> ") if part.startswith(("slurm", "local"))]
    for script in scripts:
        (tmp_path / "script").write_text(script.split("\n", 1)[1])
        subprocess.run(["bash", "-n", str(tmp_path / "script")], check=True)


def test_a_folder_with_a_blank_and_a_quote_stays_one_word(tmp_path: Path) -> None:
    recipe = recipe_of(RECIPES[0], "slurm", "output_dir=a b's", "cluster.environment={A: 'x y'}")
    script = render(job_of(recipe))["job.sbatch"]
    out = next(line for line in script.splitlines() if line.startswith("OUT="))
    assert shlex.split(out) == ["OUT=/project/a b's"]
    assert "export A='x y'" in script


def test_a_ray_job_has_its_grace_in_its_own_environment_and_no_working_dir() -> None:
    recipe = recipe_of(RECIPES[0], "ray_job", "cluster.grace_seconds=77", "cluster.environment={OMP_NUM_THREADS: '4'}")
    request = json.loads(render(job_of(recipe))["ray_job.json"])
    assert request["runtime_env"] == {"env_vars": {"OMP_NUM_THREADS": "4", "RAY_JOB_STOP_WAIT_TIME_S": "77"}}
    assert Path(recipe.output_dir).is_absolute()
