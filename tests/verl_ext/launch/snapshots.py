"""What `videoseg launch` renders for every shipped recipe; ``python -m tests.verl_ext.launch.snapshots`` writes it.

The resolved recipe inside it is left out: tests load it and compare it with the one that was asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from verl_ext.launch.jobs import render
from verl_ext.launch.scheduler import RECIPE_FILE, Job
from verl_ext.recipe import Recipe, load_recipe

ROOT = Path(__file__).parents[3]
FOLDER = Path(__file__).parent / "snapshots"
RECIPES = sorted(p for p in (ROOT / "recipes").glob("*/*.yaml") if p.parent.name != "bases")
IN_AN_IMAGE = ["cluster.image=registry/videoseg:1", "cluster.mounts=[runs:/runs, /data:/data:ro]"]
KINDS: dict[str, list[str]] = {
    "local": [],
    "ray_job": [],
    "slurm": ['cluster.time="24:00:00"'],
    "kuberay": [*IN_AN_IMAGE, "output_dir=/runs/snapshot"],
}
TWO = {
    "grpo_two_machines": ("videoseg_o3/grpo_4b", ["trainer.nodes=2", "trainer.actor_processes=8"]),
    "sft_two_machines": ("videoseg_o3/sft_4b", ["trainer.nodes=2", "trainer.actor_processes=8"]),
}
ASKED = {
    "slurm": [
        "cluster.partition=gpu",
        "cluster.account=lab",
        "cluster.options=[--qos=high]",
        "cluster.cpus_per_node=64",
        "cluster.memory_gib=512",
        "cluster.environment={NCCL_SOCKET_IFNAME: ib0}",
        "cluster.image=registry/videoseg:1",
        "cluster.mounts=[/shared:/shared]",
        "cluster.requeue=false",
    ],
    "kuberay": ["cluster.cpus_per_node=64", "cluster.memory_gib=512", 'cluster.time="12:00:00"'],
    "ray_job": ["cluster.environment={NCCL_SOCKET_IFNAME: ib0}"],
}


def recipe_of(path: Path, kind: str, *overrides: str) -> Recipe:
    """The recipe for a kind of cluster."""
    return load_recipe(path, [f"cluster.kind={kind}", *KINDS[kind], *overrides])


def job_of(recipe: Recipe) -> Job:
    """As `jobs.job_of`, in a folder that is the same everywhere."""
    project = "" if recipe.cluster.image else "/project"
    if recipe.cluster.kind != "kuberay":
        recipe.output_dir = f"/project/{recipe.output_dir}"
    return Job(recipe.name.replace("_", "-"), recipe, Path("/project/runs/launches/job"), project, "2.60.0")


def text_of(name: str) -> str:
    """All files of all kinds of cluster for one snapshot."""
    return "".join(_texts(name)).replace(sys.executable, "PYTHON")


def names() -> list[str]:
    return [f"{p.parent.name}__{p.stem}" for p in RECIPES] + list(TWO)


def path_of(name: str) -> Path:
    recipe = TWO[name][0] if name in TWO else name.replace("__", "/")
    return ROOT / "recipes" / f"{recipe}.yaml"


def kinds_of(name: str) -> list[str]:
    """One machine runs anything; several need a kind that starts the stage on all of them."""
    return {"grpo_two_machines": ["slurm", "ray_job", "kuberay"], "sft_two_machines": ["slurm"]}.get(name, list(KINDS))


def _texts(name: str) -> Iterator[str]:
    for kind in kinds_of(name):
        more = [*TWO[name][1], *ASKED[kind]] if name in TWO else []
        job = job_of(recipe_of(path_of(name), kind, *more))
        for file, content in render(job).items():
            if file != RECIPE_FILE:
                yield f"==> {kind}: {file}\n{_without_recipe(content) if kind == 'kuberay' else content}\n"


def _without_recipe(manifest: str) -> str:
    config, job = manifest.split("\n---\n")
    values = yaml.safe_load(config) | {"data": {"recipe.yaml": "(the resolved recipe)"}}
    return f"{yaml.safe_dump(values, sort_keys=False)}---\n{job}"


if __name__ == "__main__":
    for name in names():
        (FOLDER / f"{name}.txt").write_text(text_of(name))
