"""verl's training worker around our engine, as supervised training builds it, and what one step of it computes."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from verl_ext.policy.adapters import plain_name
from verl_ext.recipe import Recipe
from verl_ext.recipe.context import RECIPE_ENV

ROOT = Path(__file__).parents[2]


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


def on_two_processes(module: str, folder: Path) -> Any:
    """What ``python -m module RESULT`` wrote as rank 0 of two; the recipe is ``folder/resolved.yaml``."""
    env = os.environ | {
        "WORLD_SIZE": "2",
        RECIPE_ENV: str(folder / "resolved.yaml"),
        "DIST_INIT_METHOD": f"file://{folder}/rendezvous",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
    }
    command = [sys.executable, "-m", module, str(folder / "found.pt")]
    processes = []
    for rank in "01":
        ranked = env | {"RANK": rank, "LOCAL_RANK": rank}
        log = (folder / f"rank{rank}.log").open("w")
        processes.append(subprocess.Popen(command, env=ranked, cwd=ROOT, stdout=log, stderr=log))
    try:
        codes = [p.wait(timeout=240) for p in processes]
    finally:
        for p in processes:
            p.kill()
    assert codes == [0, 0], "".join((folder / f"rank{r}.log").read_text()[-3000:] for r in "01")
    return torch.load(folder / "found.pt", weights_only=False)
