"""Starting verl's PPO entry point with our trainer, engine and rollout."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import open_dict

from rollout.ray_env import joins_a_cluster, merge_with_the_jobs_variables
from verl_ext.recipe.context import RECIPE_ENV, active_recipe
from verl_ext.run.prepare import worker_environment

if TYPE_CHECKING:
    from verl_ext.recipe import Recipe

LOOP_MANAGER = "verl_ext.inference.loop_worker.LoopManager"


def run(recipe: Recipe) -> None:
    """Train with verl until done. Ray is started if it is not running, and stopped again if we started it."""
    import ray
    from omegaconf import OmegaConf
    from verl.trainer.main_ppo import run_ppo
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    from verl_ext.run.verl_config import grpo_config

    config = grpo_config(recipe)
    env = worker_environment(recipe, Path(os.environ[RECIPE_ENV]))
    with open_dict(config):
        OmegaConf.update(config, "ray_kwargs.ray_init.runtime_env.env_vars", env, force_add=True)
    validate_config(config=config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    merge_with_the_jobs_variables()
    started_here = not ray.is_initialized()
    try:
        run_ppo(config, task_runner_class=ray.remote(_task_runner_class(joins_a_cluster())))
    finally:
        if started_here and ray.is_initialized():
            ray.shutdown()


def _task_runner_class(joined: bool) -> type:
    """``joined``: machines may come late to a cluster that somebody else started."""
    from verl.trainer.main_ppo import TaskRunnerV1

    base: Any = TaskRunnerV1.__ray_metadata__.modified_class

    class TaskRunner(base):  # type: ignore[misc]
        """Plugs in what has to be plugged in inside the driver actor (verl compares the mode's name literally)."""

        def run(self, config: Any) -> Any:
            from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY

            from verl_ext.inference.vllm_worker import register_replica
            from verl_ext.plugin import register_engine
            from verl_ext.reinforce.modes import TRAINERS
            from verl_ext.run.cluster import check_cluster, start_seconds
            from verl_ext.run.watchdog import watch_actors

            check_cluster(active_recipe(), start_seconds() if joined else 0.0)
            register_engine()
            register_replica()
            TRAINER_REGISTRY.update(TRAINERS)
            with open_dict(config):
                config.actor_rollout_ref.rollout.agent.agent_loop_manager_class = LOOP_MANAGER
            with watch_actors():
                return super().run(config)

    return TaskRunner
