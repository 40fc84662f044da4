"""``videoseg train`` of a ``grpo`` recipe: verl's PPO entry point in a supervised process."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verl_ext.run.checkpoints import link_newest_policy, newest_policy
from verl_ext.run.phases import in_short
from verl_ext.run.supervise import Progress, alone_in, scalar, supervise

if TYPE_CHECKING:
    from verl_ext.recipe import Recipe

__all__ = ["newest_policy", "train_grpo"]


def train_grpo(recipe: Recipe, resume: bool = True, progress: Progress | None = None) -> Path | None:
    """Train until done and return the newest policy's folder, or None if stopped early (a checkpoint is kept).

    ``output_dir/policy`` is a link to the newest policy from the first checkpoint on.

    Raises:
        WorkerError: a process failed; the message carries the end of its log.
        RecipeError: another training process is at work in ``output_dir``, or the recipe cannot continue what is there.
    """
    from verl_ext.run.prepare import prepare_run

    out = Path(recipe.output_dir).resolve()
    with alone_in(out):
        recipe, env = prepare_run(recipe, resume)
        command = [sys.executable, "-m", "verl_ext.run.process", "verl_ext.reinforce.worker"]
        finished = supervise(command, env, out, recipe.trainer.steps, progress, _describe)
        if not finished:
            return None
        link_newest_policy(out)
        return newest_policy(out)


TOLD = (
    ("reward", "reward/mean"),
    ("format", "reward/strict_format"),
    ("format", "reward/veason_format"),
    ("J&F", "val/jf"),
)
"""What a line of progress says of a step."""


def _describe(metrics: Mapping[str, Any]) -> str:
    found = [(name, scalar(metrics.get(key))) for name, key in TOLD]
    numbers = ", ".join(f"{name} {value:.2f}" for name, value in found if value is not None)
    return f"{numbers}\n{in_short(metrics)}".strip()
