"""What every kind of cluster does with a job, and what it is told about one."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rollout.errors import WorkerError

if TYPE_CHECKING:
    from verl_ext.recipe import Recipe

RECIPE_FILE = "recipe.yaml"
"""In a job's folder: the recipe that it runs, resolved."""
HELD = "HELD"
"""In a job's folder: whoever stopped the job does not want it to go on by itself."""

LEAST_CPUS = 32
"""That a machine tells Ray it has: actors that mostly wait ask for more than a small machine has."""


@dataclass(frozen=True)
class Job:
    """A recipe and where its files lie."""

    name: str
    recipe: Recipe
    folder: Path
    """Absolute: rendered files, logs, what was submitted."""
    project: str
    """Absolute: where the run works on the machines; empty for an image's own folder."""
    ray_version: str = ""

    @property
    def nodes(self) -> int:
        return self.recipe.trainer.nodes

    @property
    def gpus(self) -> int:
        """Of one machine."""
        return self.recipe.trainer.gpus_per_node if self.recipe.device == "cuda" else 0

    @property
    def python(self) -> str:
        return "python" if self.recipe.cluster.image else sys.executable

    def train(self, recipe_file: str | Path | None = None) -> list[str]:
        """The command that begins the run, and that goes on with it."""
        file = recipe_file or self.folder / RECIPE_FILE
        return [self.python, "-m", "verl_ext.cli.main", "train", str(file), "--resume"]


@dataclass
class Submitted:
    """What is known about a job after it was submitted."""

    kind: str
    id: str
    """The scheduler's name of it."""
    output_dir: str
    command: str
    """How it was submitted, to be done by hand."""
    address: str = ""
    """Of Ray's dashboard, or Kubernetes' namespace."""


@dataclass(frozen=True)
class State:
    """How a job is."""

    active: bool
    """Waiting or running: it is not submitted once more."""
    words: str


class Scheduler(Protocol):
    """One kind of cluster."""

    def render(self, job: Job) -> dict[str, str]:
        """File name in the job's folder -> content."""

    def command(self, job: Job) -> str:
        """The command line that submits it, as a user would type it."""

    def submit(self, job: Job) -> Submitted:
        """Submit the files that were rendered. Raises WorkerError if the scheduler refuses, with its words."""

    def state(self, job: Submitted, folder: Path) -> State:
        """Ask the scheduler."""

    def logs(self, job: Submitted, folder: Path) -> Iterator[str]:
        """What the job has said so far, in lines without their ends."""

    def stop(self, job: Submitted, folder: Path, now: bool) -> str:
        """Ask it to finish its step and save, or end it at once; says in words what happens."""


def tool(command: Sequence[str], remedy: str, check: bool = True) -> str:
    """What a scheduler's own program prints.

    Raises:
        WorkerError: it is not here, or it failed; carries its words.
    """
    if shutil.which(command[0]) is None:
        raise WorkerError(f"{command[0]} is not on this machine's PATH; {remedy}")
    done = subprocess.run(list(command), capture_output=True, text=True)
    if check and done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise WorkerError(f"{shlex.join(command)} failed (exit code {done.returncode}): {said}")
    return done.stdout


def lines_of(file: Path) -> Iterator[str]:
    """Of a text file; none if it is not there."""
    if file.is_file():
        with file.open(encoding="utf-8", errors="replace") as f:
            yield from (line.rstrip("\n") for line in f)
