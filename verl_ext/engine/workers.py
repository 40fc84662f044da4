"""verl's workers with our loss, our process group on CPU, and the segmenter's weights on request."""

from __future__ import annotations

import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
from verl.experimental.separation.engine_workers import DetachActorWorker
from verl.single_controller.base.decorator import Dispatch, register
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_name
from verl.utils.flops_counter import get_device_flops
from verl.utils.metric import Metric
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker

from verl_ext.engine.position_ids import repair_position_ids
from verl_ext.plugin import register_engine
from verl_ext.recipe.context import active_recipe

LONGEST_ROW = "longest_row"
"""Metric: tokens."""


def init_gloo_first() -> None:
    """verl 0.9.1 would ask for "cpu:gloo,cpu:gloo", which torch refuses; a group that exists already is kept."""
    if get_device_name() != "cpu" or torch.distributed.is_initialized():
        return
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if processes == 1:  # without a port, which another program may have taken since it was chosen
        torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
        return
    torch.distributed.init_process_group(
        "gloo",
        rank=int(os.environ.get("RANK", 0)),
        world_size=processes,
        init_method=os.environ.get("DIST_INIT_METHOD"),
    )


class SegTrainingWorker(TrainingWorker):  # type: ignore[misc]
    """One engine in one process."""

    def __init__(self, config: Any) -> None:
        register_engine()
        init_gloo_first()
        torch.manual_seed(active_recipe().seed)
        super().__init__(config)

    def train_mini_batch(self, data: Any) -> Any:
        repair_position_ids(data)
        output = super().train_mini_batch(data)
        if output is not None:
            metrics = dict(tu.get(output, "metrics"))
            # verl would log the mean of the updates
            metrics["skipped_updates"] = [sum(metrics["skipped_updates"])]
            if LONGEST_ROW in metrics:
                metrics[LONGEST_ROW] = [max(metrics[LONGEST_ROW])]
            tu.assign_non_tensor(output, metrics=metrics)
        return output

    def infer_batch(self, data: Any) -> Any:
        repair_position_ids(data)
        return super().infer_batch(data)

    def _postprocess_output(self, output: Any, **kwargs: Any) -> Any:
        result = super()._postprocess_output(output, **kwargs)
        metrics = whole_batch_metrics(dict(tu.get(result, "metrics")))
        metrics["mfu"] = self._mfu(kwargs["delta_time"], kwargs["forward_only"])
        if self.engine.longest_row:
            metrics[LONGEST_ROW] = float(self.engine.longest_row)
        tu.assign_non_tensor(result, metrics=metrics)
        return result

    def _mfu(self, seconds: float, forward_only: bool) -> float:
        """Operations that the pass needs a second, as a share of what the devices promise (see `packing.work`)."""
        policy, work = active_recipe().policy, self.engine.work
        needed = work.forward if forward_only else work.update(policy.lora.rank > 0, policy.freeze_vision)
        return float(needed / seconds / (1e12 * get_device_flops()) / torch.distributed.get_world_size())


def whole_batch_metrics(metrics: dict[str, Any]) -> dict[str, Any]:
    """Metrics that verl gathered, one a process, as single numbers of the whole batch; other entries as they are.

    verl does this for reinforcement only; supervised training would log lists of partial sums.
    """
    out = dict(metrics)
    for name, value in metrics.items():
        per_process = value if isinstance(value, list) else [value]
        if per_process and all(isinstance(v, Metric) for v in per_process):
            out[name] = float(Metric.aggregate_dp(per_process))
    log_prob = out.pop("seg/mask_log_prob_sum", None)
    if log_prob is not None and out["seg/tokens"]:
        out["seg/mask_log_prob"] = log_prob / out["seg/tokens"]
    if "grad_norm" in out:  # verl's engine leaves such an update out
        out["skipped_updates"] = float(not math.isfinite(out["grad_norm"]))
    return out


class SegActorRolloutRefWorker(ActorRolloutRefWorker):  # type: ignore[misc]
    """Actor, reference and the actor's side of the rollout."""

    actor_worker_cls = SegTrainingWorker
    ref_worker_cls = SegTrainingWorker
    loss_fn: Any

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def init_model(self) -> None:
        super().init_model()
        if "actor" not in self.role:  # the reference of `SegActorWorker`
            return
        from verl_ext.objective.rl_loss import rl_loss

        objective = active_recipe().objective
        config = self.loss_fn.keywords["config"]
        self.loss_fn = partial(
            rl_loss, config=config, calibrate=objective.calibration.enabled, aux_coef=objective.aux_coef
        )
        self.actor.set_loss_fn(self.loss_fn)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def decoder_state(self) -> dict[str, torch.Tensor]:
        """The trained part of SAM 2 for the pool; empty on all ranks but 0 and for a policy without a head."""
        return self.actor.engine.decoder_state()  # type: ignore[no-any-return]

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def projection_state(self) -> dict[str, torch.Tensor]:
        """The ``[SEG]`` projection, for masks that are drawn in mid-dialogue; empty as `decoder_state`."""
        return self.actor.engine.projection_state()  # type: ignore[no-any-return]

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def export_policy(self, folder: str) -> None:
        """Write a policy folder that ``videoseg eval`` and vLLM load (rank 0 writes, all ranks gather)."""
        from verl_ext.policy.export import export_policy

        export_policy(self.actor.engine, Path(folder))


class SegActorWorker(SegActorRolloutRefWorker, DetachActorWorker):  # type: ignore[misc]
    """Actor or reference of a run whose rollout has GPUs of its own; can go back to the weights of its step's start."""

    @property
    def copy_handler(self) -> Any:
        """verl's copies nothing where the weights lie on the CPU already."""
        copy = super().copy_handler

        def apart(module: torch.nn.Module) -> Any:
            state, spec = copy(module)
            return {name: (tensor.clone(), own) for name, (tensor, own) in state.items()}, spec

        return apart if get_device_name() == "cpu" else copy

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def save_model_to_cpu(self, n: int) -> None:
        """verl asks before every step; where a step is one update, nobody goes back, and the copy would be for nothing
        (all weights in float32, through memory that is not pinned)."""
        t = active_recipe().trainer
        if t.prompts_per_step > t.mini_batch_prompts:
            super().save_model_to_cpu(n)
