"""Starting verl's PPO entry point with our trainer, engine and rollout."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verl_ext.recipe import Recipe


def worker_environment(recipe: Recipe, resolved: Path) -> dict[str, str]:
    """Environment variables that every process of the run needs."""
    from verl_ext.context import RECIPE_ENV
    from verl_ext.vllm_env import FORBIDDEN_TOKENS_ENV, policy_forbidden_token_ids

    env = {
        RECIPE_ENV: str(resolved.resolve()),
        FORBIDDEN_TOKENS_ENV: json.dumps(policy_forbidden_token_ids(recipe.policy.path)),
        "VERL_USE_EXTERNAL_MODULES": "verl_ext.plugin",
        "VERL_FILE_LOGGER_PATH": str((Path(recipe.output_dir) / "metrics.jsonl").resolve()),
        "TENSORBOARD_DIR": str((Path(recipe.output_dir) / "tensorboard").resolve()),
        "TOKENIZERS_PARALLELISM": "false",
        "RAY_DEDUP_LOGS": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1"),
    }
    if recipe.device == "cpu":
        env |= {
            "VERL_PLATFORM": "cpu",
            "OMP_WAIT_POLICY": "passive",  # spinning threads beside other processes cost 5-20x (LEARNING)
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
            "VLLM_CPU_KVCACHE_SPACE": str(max(1, round(recipe.rollout.engine.kv_cache_gib))),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }
    return env


def run(recipe: Recipe, resolved: Path) -> None:
    """Train with verl until done. Ray is started if it is not running, and stopped again if we started it."""
    env = worker_environment(recipe, resolved)
    os.environ.update(env)
    import ray
    from omegaconf import OmegaConf, open_dict
    from verl.trainer.main_ppo import run_ppo
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    from verl_ext.render import grpo_config

    config = grpo_config(recipe)
    with open_dict(config):
        OmegaConf.update(config, "ray_kwargs.ray_init.runtime_env.env_vars", env, force_add=True)
    validate_config(
        config=config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config)
    )
    started_here = not ray.is_initialized()
    try:
        run_ppo(config, task_runner_class=ray.remote(_task_runner_class()))
    finally:
        if started_here and ray.is_initialized():
            ray.shutdown()


def _task_runner_class() -> type:
    from verl.trainer.main_ppo import TaskRunnerV1

    base: Any = TaskRunnerV1.__ray_metadata__.modified_class

    class TaskRunner(base):  # type: ignore[misc]
        """Plugs in what has to be plugged in inside the driver actor (verl compares the mode name literally)."""

        def run(self, config: Any) -> Any:
            from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY

            from verl_ext.plugin import register_engine
            from verl_ext.trainer import VideosegTrainer
            from verl_ext.vllm_worker import register_replica

            register_engine()
            register_replica()
            TRAINER_REGISTRY["sync"] = VideosegTrainer
            return super().run(config)

    return TaskRunner
