"""A run before its first process: absolute folders, the resolved recipe on disk, every process's environment."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rollout.errors import RecipeError
from verl_ext.recipe.context import RECIPE_ENV
from verl_ext.rollout_log.files import forget_steps_after
from verl_ext.run.checkpoints import check_continues, repair_tracker, step_folders, tracked_step
from verl_ext.run.loggers import TENSORBOARD, forget_logged_after, wandb_environment
from verl_ext.run.process import RUN_DIR_ENV
from verl_ext.run.run_files import FAILED_DIALOGUES, HELD_OUT, LIVE_METRICS, METRICS, fold_metrics, forget_after

if TYPE_CHECKING:
    from verl_ext.recipe import Recipe

logger = logging.getLogger(__name__)

RESOLVED = "resolved.yaml"
"""In ``output_dir``: the recipe that its processes read."""


def recipe_of_policy(policy: Path) -> Path | None:
    """The resolved recipe of the run that a policy is of (``RUN/policy`` or a checkpoint's); None if it is of none."""
    places = (folder / RESOLVED for folder in policy.absolute().parents[:3])
    return next((place for place in places if place.is_file()), None)


def worker_environment(recipe: Recipe, resolved: Path) -> dict[str, str]:
    """Environment variables that every process of the run needs."""
    from rollout.vllm_env import FORBIDDEN_TOKENS_ENV, policy_forbidden_token_ids

    env = {
        RECIPE_ENV: str(resolved.resolve()),
        FORBIDDEN_TOKENS_ENV: json.dumps(policy_forbidden_token_ids(recipe.policy.path)),
        "VERL_USE_EXTERNAL_MODULES": "verl_ext.plugin",
        "VERL_FILE_LOGGER_PATH": str((Path(recipe.output_dir) / LIVE_METRICS).resolve()),
        "TENSORBOARD_DIR": str((Path(recipe.output_dir) / TENSORBOARD).resolve()),
        "TOKENIZERS_PARALLELISM": "false",
        "RAY_DEDUP_LOGS": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1"),
    }
    if "wandb" in recipe.trainer.loggers:
        env |= wandb_environment(Path(recipe.output_dir).resolve())
    if recipe.pool.share_gpu:  # Ray hides all GPUs from actors that reserve none, unless told not to
        env["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    if recipe.device == "cpu":
        env |= {
            "VERL_PLATFORM": "cpu",
            "OMP_WAIT_POLICY": "passive",  # spinning threads beside other processes cost 5-20x
            # a second thread makes operations as small as a CPU's models slower, not faster (SAM 2's warm-up by half)
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
            "VLLM_CPU_KVCACHE_SPACE": str(recipe.rollout.engine.kv_cache_gib or 1),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }
    return env


def prepare_run(recipe: Recipe, resume: bool) -> tuple[Recipe, dict[str, str]]:
    """Absolute folder, resolved recipe on disk, environment of the training process.

    Metrics and evaluations of steps that will be done again are dropped. Changes files, so the caller holds
    :func:`verl_ext.run.supervise.alone_in`.

    Raises:
        RecipeError: ``output_dir`` holds checkpoints and ``resume`` is false, or the recipe cannot continue them.
    """
    from verl_ext.recipe import save_resolved

    out = Path(recipe.output_dir).resolve()
    policy = replace(recipe.policy, path=str(Path(recipe.policy.path).resolve()))
    trainer = replace(recipe.trainer, resume="auto" if resume else "never")
    recipe = replace(recipe, output_dir=str(out), policy=policy, trainer=trainer)
    out.mkdir(parents=True, exist_ok=True)
    resolved = node_folder(recipe) / RESOLVED
    if step_folders(out):
        if not resume:
            raise RecipeError(
                f"output_dir: {out} holds checkpoints of an earlier run; continue it with --resume, "
                "or choose another output_dir"
            )
        _check_continues(recipe, out)
    if node_folder(recipe) == out:
        repair_tracker(out)
        _forget_what_comes_again(out)
    save_resolved(recipe, resolved)
    return recipe, {**os.environ, **worker_environment(recipe, resolved), RUN_DIR_ENV: str(out)}


def _forget_what_comes_again(out: Path) -> None:
    begun_at = tracked_step(out)
    fold_metrics(out)
    last = -1 if begun_at is None else begun_at
    for name in (METRICS, HELD_OUT, FAILED_DIALOGUES):
        forget_after(out / name, last)
    forget_steps_after(out, last)
    forget_logged_after(out, begun_at)


def node_folder(recipe: Recipe) -> Path:
    """Where this machine's process keeps its log: ``output_dir``, below it on torchrun's further nodes."""
    out = Path(recipe.output_dir).resolve()
    node = os.environ.get("NODE_RANK", "0") if recipe.stage == "sft" and recipe.trainer.nodes > 1 else "0"
    return out if node == "0" else out / f"node_{node}"


def _check_continues(recipe: Recipe, out: Path) -> None:
    from verl_ext.recipe import load_resolved

    if not (out / RESOLVED).is_file():
        return
    try:
        before = load_resolved(out / RESOLVED)
    except RecipeError as e:
        logger.warning("%s is not compared with this recipe, it was written by another version: %s", out / RESOLVED, e)
        return
    check_continues(before, recipe, out)
