"""verl's training worker around our engine, as supervised training builds it, and what one step of it computes."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from verl_ext.policy.adapters import plain_name
from verl_ext.recipe import Recipe


def training_worker(recipe: Recipe, forward_only: bool = False) -> Any:
    """Of this process's rank; ``recipe`` must be the active one."""
    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.engine_workers import TrainingWorkerConfig

    from verl_ext.engine.workers import SegTrainingWorker
    from verl_ext.run.verl_config import sft_config

    config = sft_config(recipe)
    config.engine.forward_only = forward_only
    settings = TrainingWorkerConfig(
        model_type="language_model",
        model_config=omega_conf_to_dataclass(config.model),
        engine_config=omega_conf_to_dataclass(config.engine),
        optimizer_config=omega_conf_to_dataclass(config.optim),
        checkpoint_config=omega_conf_to_dataclass(config.checkpoint),
        profiler_config=omega_conf_to_dataclass(config.profiler),
    )
    settings.optimizer_config.total_training_steps = 10
    worker = SegTrainingWorker(settings)
    worker.reset()
    return worker


def gradients_of_step(worker: Any, data: Any, loss_fn: Any) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """One training step: its metrics, and the whole gradient of every parameter that has one, before clipping."""
    from verl.utils import tensordict_utils as tu

    engine, found = worker.engine, {}
    step = engine.optimizer_step

    def look_and_step() -> Any:
        for name, p in engine.module.named_parameters():
            if p.grad is not None:
                found[plain_name(name)] = p.grad.full_tensor().clone()
        return step()

    engine.optimizer_step = look_and_step
    worker.set_loss_fn(loss_fn)
    metrics = dict(tu.get(worker.train_batch(data), "metrics"))
    engine.optimizer_step = step
    return metrics, found


def supervised_step(worker: Any, data: Any) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    from verl_ext.objective.sft_loss import supervised_loss

    return gradients_of_step(worker, data, partial(supervised_loss, config=None))
