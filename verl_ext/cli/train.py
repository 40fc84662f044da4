"""``videoseg train``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from verl_ext.cli.group import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from verl_ext.recipe import Plan, Recipe

RESOLVED, DRY_RUN, PLAN = "resolved.yaml", "dry_run.yaml", "plan.json"
SHIPPED_PATHS = "Shipped recipes look for data in $VIDEOSEG_DATA (or data/), for models in $VIDEOSEG_MODELS (models/)"


def train(
    recipe: Annotated[Path, typer.Argument(help="YAML file; shipped ones are under recipes/.", metavar="RECIPE")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings to change, as key=value.", metavar="[KEY=VALUE]...")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show and write the resolved recipe, processes and memory; start nothing.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the newest checkpoint in output_dir.")
    ] = False,
) -> None:
    r"""Train by a recipe: supervised (sft) or by reinforcement (grpo), as the recipe's stage says.

    Every setting is checked before anything starts. Examples:

      videoseg train recipes/videoseg_o3/grpo_2b.yaml --dry-run

      videoseg train recipes/videoseg_o3/grpo_2b.yaml trainer.steps=200 optim.lr=1e-6

      videoseg train recipes/videoseg_o3/grpo_2b.yaml data.0.root=/data/ReVOS 'trainer.loggers=\[console,wandb]'

      videoseg train recipes/videoseg_o3/grpo_2b.yaml --resume
    """
    from rollout.errors import RecipeError
    from verl_ext.recipe import check_paths, check_ready, load_recipe, plan

    settings = [*(overrides or []), *(["trainer.resume=auto"] if resume else [])]
    loaded = load_recipe(recipe, settings)
    problems = check_ready(loaded)
    if dry_run:
        planned = plan(loaded)
        planned.notes += problems
        _show(loaded, planned)
        return
    if problems:
        hint = [SHIPPED_PATHS] if check_paths(loaded) else []
        raise RecipeError("\n".join([f"{recipe}: cannot start", *(f"  - {p}" for p in problems), *hint]))
    start(loaded)


def start(recipe: Recipe) -> None:
    """Run the recipe's stage until it is done, and say where the policy lies. Exit code 130 if it was interrupted."""
    from rich.console import Console

    from verl_ext.cli.phase_table import print_phases
    from verl_ext.run.not_finite import run_in_words
    from verl_ext.run.run_files import METRICS, read_metrics
    from verl_ext.run.training_progress import training_progress

    console = Console()
    console.print(f"{recipe.name}: {recipe.stage} on {recipe.device}; everything goes to {recipe.output_dir}")
    with training_progress(console) as progress:
        policy = stage_of(recipe)(recipe, resume=recipe.trainer.resume == "auto", progress=progress)
    if policy is None:
        console.print("Stopped; a checkpoint is kept. The same command with --resume continues.")
        raise typer.Exit(EXIT_INTERRUPTED)
    print_phases(Path(recipe.output_dir), console)
    if words := run_in_words(read_metrics(Path(recipe.output_dir) / METRICS)):
        console.print(f"[bold red]{words}[/]")
    console.print(f"policy: {policy}")


def stage_of(recipe: Recipe) -> Callable[..., Path | None]:
    """The function that runs the recipe's stage."""
    if recipe.stage == "sft":
        from verl_ext.supervised.run import train_sft

        return train_sft
    from verl_ext.reinforce.run import train_grpo

    return train_grpo


def _show(recipe: Recipe, planned: Plan) -> None:
    from rich.console import Console
    from rich.syntax import Syntax

    from data_construction.atomic import write_whole
    from verl_ext.cli.plan_table import print_plan
    from verl_ext.recipe import save_resolved

    folder = Path(recipe.output_dir)
    # a run that is or was in this folder reads its own recipe from there
    resolved = folder / (DRY_RUN if (folder / "train.log").exists() else RESOLVED)
    save_resolved(recipe, resolved)
    write_whole(folder / PLAN, json.dumps(planned.to_dict(), indent=2) + "\n")
    console = Console()
    console.print(Syntax(resolved.read_text(encoding="utf-8"), "yaml", background_color="default"))
    print_plan(planned, console)
    console.print(f"written: {resolved}, {folder / PLAN}")
