"""``videoseg launch``."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from verl_ext.cli.train import SHIPPED_PATHS

if TYPE_CHECKING:
    from rich.console import Console

    from verl_ext.launch.scheduler import Job
    from verl_ext.recipe import Recipe

SUBMIT = "submit"
NAME = Annotated[str, typer.Argument(help="The recipe's name.")]


class LaunchGroup(TyperGroup):
    """``launch RECIPE`` is ``launch submit RECIPE``: a first word that is no command of the group is a recipe."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = [a for a in args if not a.startswith("-")]
        if words and words[0] not in self.commands:
            near = get_close_matches(words[0], self.commands, n=1)
            if near and not Path(words[0]).exists():
                ctx.fail(f"{words[0]}: no recipe file, and no command; did you mean {near[0]}?")
            args = [SUBMIT, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=LaunchGroup, no_args_is_help=True)


@app.callback()
def launch() -> None:
    """Run a recipe on a cluster, as its cluster block says: videoseg launch RECIPE [KEY=VALUE]... [--dry-run].

    The job begins the run, or goes on with what is in its output_dir. Examples:

      videoseg launch recipes/videoseg_o3/grpo_4b.yaml cluster.kind=slurm trainer.nodes=2 trainer.actor_processes=8

      videoseg launch recipes/videoseg_o3/grpo_4b.yaml cluster.kind=slurm --dry-run

      videoseg launch status grpo_4b

      videoseg launch stop grpo_4b
    """


@app.command(SUBMIT)
def submit(
    recipe: Annotated[Path, typer.Argument(help="YAML file; shipped ones are under recipes/.", metavar="RECIPE")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings to change, as key=value.", metavar="[KEY=VALUE]...")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write and show what would be submitted; submit nothing.")
    ] = False,
) -> None:
    r"""Render a recipe for its cluster and submit it; the word submit may be left out.

    Files go to runs/launches/NAME. Example:

      videoseg launch submit recipes/videoseg_o3/grpo_4b.yaml cluster.kind=slurm 'cluster.time="24:00:00"' --dry-run
    """
    from rich.console import Console

    from rollout.errors import RecipeError
    from verl_ext.launch import jobs
    from verl_ext.launch.scheduler import RECIPE_FILE
    from verl_ext.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    job = jobs.job_of(loaded)
    problems = _not_ready(job.recipe)
    console = Console()
    if dry_run:
        for file in jobs.write(job):
            if file.name != RECIPE_FILE:
                console.print(f"# {file}", highlight=False)
                console.print(file.read_text(encoding="utf-8"), markup=False, highlight=False, soft_wrap=True)
        _show_placement(job, problems, console)
        console.print(f"written: {job.folder}; it would be submitted by: {_command(job)}", markup=False, soft_wrap=True)
        return
    if problems:
        raise RecipeError("\n".join([f"{recipe}: cannot start", *(f"  - {p}" for p in problems), SHIPPED_PATHS]))
    submitted = jobs.submit(job)
    console.print(f"{job.name}: {submitted.kind} job {submitted.id}; everything goes to {submitted.output_dir}")
    console.print(f"videoseg launch status|logs|stop {job.name}", markup=False)


@app.command()
def status(name: NAME) -> None:
    """How a launched job is. Example:

    videoseg launch status grpo_4b
    """
    from verl_ext.launch import jobs

    typer.echo(jobs.state(name).words)


@app.command()
def logs(name: NAME) -> None:
    """What a launched job has said so far. Example:

    videoseg launch logs grpo_4b
    """
    from verl_ext.launch import jobs

    for line in jobs.logs(name):
        typer.echo(line)


@app.command()
def stop(
    name: NAME,
    now: Annotated[bool, typer.Option("--now", help="End it at once; what came after its last save is lost.")] = False,
) -> None:
    """Ask a launched job to finish its step, save and end; launched again it goes on. Example:

    videoseg launch stop grpo_4b
    """
    from verl_ext.launch import jobs

    typer.echo(f"{name}: {jobs.stop(name, now=now)}")


def _not_ready(recipe: Recipe) -> list[str]:
    """Why the run could not start; an image's files are not seen from here."""
    from verl_ext.recipe import check_ready

    return [] if recipe.cluster.image else check_ready(recipe)


def _show_placement(job: Job, problems: list[str], console: Console) -> None:
    from verl_ext.cli.plan_table import print_plan
    from verl_ext.recipe import plan

    planned = plan(job.recipe)
    planned.notes += problems
    print_plan(planned, console)


def _command(job: Job) -> str:
    from verl_ext.launch.jobs import scheduler_of

    return scheduler_of(job.recipe.cluster.kind).command(job)
