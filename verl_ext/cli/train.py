"""``videoseg train``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from verl_ext.recipe import Plan, Recipe

RESOLVED, PLAN = "resolved.yaml", "plan.json"


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
    """Train by a recipe: supervised (sft) or by reinforcement (grpo), as the recipe's stage says.

    Every setting is checked before anything starts. Examples:

      videoseg train recipes/videoseg_o3/grpo_2b.yaml --dry-run

      videoseg train recipes/videoseg_o3/grpo_2b.yaml trainer.steps=200 optim.lr=1e-6

      videoseg train recipes/videoseg_o3/grpo_2b.yaml data.0.root=/data/ReVOS 'trainer.loggers=[console,wandb]'

      videoseg train recipes/videoseg_o3/grpo_2b.yaml --resume
    """
    from rollout.errors import RecipeError
    from verl_ext.recipe import check_paths, load_recipe, plan

    settings = [*(overrides or []), *(["trainer.resume=auto"] if resume else [])]
    loaded = load_recipe(recipe, settings)
    missing = check_paths(loaded)
    if dry_run:
        planned = plan(loaded)
        planned.notes += missing
        _show(loaded, planned)
        return
    if missing:
        raise RecipeError("\n".join([f"{recipe}: files are missing", *(f"  - {m}" for m in missing)]))
    start(loaded, resume=loaded.trainer.resume == "auto")


def start(recipe: Recipe, resume: bool) -> None:
    """Run the recipe's stage until it is done."""
    if recipe.stage == "sft":
        from verl_ext.sft import train_sft

        train_sft(recipe, resume=resume)
        return
    from verl_ext.trainer import train_grpo

    train_grpo(recipe, resume=resume)


def _show(recipe: Recipe, planned: Plan) -> None:
    from rich.console import Console
    from rich.syntax import Syntax

    from verl_ext.cli.plan_table import print_plan
    from verl_ext.recipe import save_resolved

    folder = Path(recipe.output_dir)
    save_resolved(recipe, folder / RESOLVED)
    (folder / PLAN).write_text(json.dumps(planned.to_dict(), indent=2) + "\n", encoding="utf-8")
    console = Console()
    console.print(Syntax((folder / RESOLVED).read_text(encoding="utf-8"), "yaml", background_color="default"))
    print_plan(planned, console)
    console.print(f"written: {folder / RESOLVED}, {folder / PLAN}")
