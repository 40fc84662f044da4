"""Jobs by their names: render, submit, ask, stop. A job's files lie in ``runs/launches/NAME``."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from data_construction.atomic import write_whole
from rollout.errors import RecipeError
from verl_ext.launch.scheduler import HELD, RECIPE_FILE, Job, Scheduler, State, Submitted
from verl_ext.run.stop import how_it_ended

if TYPE_CHECKING:
    from verl_ext.recipe import Recipe

LAUNCHES = Path("runs/launches")
RECORD = "launch.json"
"""In a job's folder: what was submitted last."""


def scheduler_of(kind: str) -> Scheduler:
    """Of a ``cluster.kind``."""
    module = importlib.import_module(f"verl_ext.launch.{kind}")
    return module.SCHEDULER  # type: ignore[no-any-return]


def job_of(recipe: Recipe, launches: Path = LAUNCHES) -> Job:
    """The recipe as a job; its ``output_dir`` is made absolute where the machines share this one's folders.

    Raises:
        RecipeError: one machine is asked for what several should run.
    """
    c, name = recipe.cluster, job_name(recipe.name)
    if c.kind == "local" and recipe.trainer.nodes > 1:
        raise RecipeError(
            f"cluster.kind: local, but trainer.nodes is {recipe.trainer.nodes}; name the cluster that has them: "
            "cluster.kind=slurm, ray_job or kuberay"
        )
    project = c.folder or ("" if c.image else str(Path.cwd()))
    if c.kind != "kuberay":
        recipe = replace(recipe, output_dir=str(Path(project or ".", recipe.output_dir).absolute()))
    return Job(name, recipe, (launches / name).absolute(), project, _ray_version())


def job_name(name: str) -> str:
    """Letters, digits and -, as Kubernetes wants it: at most 40 of them."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "run"


def render(job: Job) -> dict[str, str]:
    """All files of the job, by name."""
    from omegaconf import OmegaConf

    files = scheduler_of(job.recipe.cluster.kind).render(job)
    return {RECIPE_FILE: OmegaConf.to_yaml(OmegaConf.create(asdict(job.recipe))), **files}


def write(job: Job) -> list[Path]:
    """Render into the job's folder; the files."""
    job.folder.mkdir(parents=True, exist_ok=True)
    files = render(job)
    for name, content in files.items():
        write_whole(job.folder / name, content)
    return [job.folder / name for name in files]


def submit(job: Job) -> Submitted:
    """Render and submit.

    Raises:
        RecipeError: a job of this name is waiting or running.
        WorkerError: the scheduler is not here or refuses; carries its words.
    """
    scheduler = scheduler_of(job.recipe.cluster.kind)
    if (job.folder / RECORD).is_file():
        before = record_of(job.folder)
        state = scheduler_of(before.kind).state(before, job.folder)
        if state.active:
            raise RecipeError(
                f"{job.name}: is there already as {before.kind} job {before.id} ({state.words}); videoseg launch stop "
                f"{job.name}, or give another name=..."
            )
    write(job)
    (job.folder / HELD).unlink(missing_ok=True)
    submitted = scheduler.submit(job)
    write_whole(job.folder / RECORD, json.dumps(asdict(submitted), indent=1) + "\n")
    return submitted


def state(name: str, launches: Path = LAUNCHES) -> State:
    """How the job is, and the newest that its run says of itself."""
    folder = folder_of(name, launches)
    job = record_of(folder)
    found = scheduler_of(job.kind).state(job, folder)
    words = [f"{job.kind} job {job.id}: {found.words}"]
    if not found.active and (ended := how_it_ended(Path(job.output_dir))):
        words.append(ended)
    return State(found.active, "; ".join(words))


def logs(name: str, launches: Path = LAUNCHES) -> Iterator[str]:
    """Lines of what the job has said so far."""
    folder = folder_of(name, launches)
    job = record_of(folder)
    return scheduler_of(job.kind).logs(job, folder)


def stop(name: str, launches: Path = LAUNCHES, now: bool = False) -> str:
    """Ask the job to finish its step, save and end (or end it ``now``); it does not go on by itself afterwards."""
    folder = folder_of(name, launches)
    job = record_of(folder)
    (folder / HELD).touch()
    return scheduler_of(job.kind).stop(job, folder, now)


def folder_of(name: str, launches: Path = LAUNCHES) -> Path:
    """Where the job's files are.

    Raises:
        RecipeError: no job of this name was launched from here.
    """
    folder = launches / job_name(name)
    if not (folder / RECORD).is_file():
        known = _names(sorted(f.parent.name for f in launches.glob(f"*/{RECORD}")))
        raise RecipeError(
            f"{name}: no such job in {launches.absolute()} ({known}); launch from, and ask in, one folder"
        )
    return folder.absolute()


def record_of(folder: Path) -> Submitted:
    """What was submitted last."""
    return Submitted(**json.loads((folder / RECORD).read_text(encoding="utf-8")))


def _names(found: Sequence[str]) -> str:
    return f"there are: {', '.join(found)}" if found else "there is none"


def _ray_version() -> str:
    try:
        return version("ray")
    except PackageNotFoundError:
        return ""
