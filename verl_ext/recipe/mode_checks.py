"""Does what a recipe says fit its ``trainer.mode``?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from verl_ext.recipe.rules import rule
from verl_ext.recipe.training import AheadRecipe

if TYPE_CHECKING:
    from verl_ext.recipe.schema import Recipe


@rule
def mode_has_its_settings(r: Recipe) -> Iterator[str]:
    t = r.trainer
    if r.stage == "sft" and t.mode != "sync":
        yield f"trainer.mode: {t.mode} with stage: sft, which rolls nothing out; leave it out"
    elif t.mode == "sync" and t.ahead != AheadRecipe():
        yield (
            f"trainer.ahead: {_changed(t.ahead)} with trainer.mode: sync, which rolls nothing out ahead; leave it out, "
            "or set mode to colocate_async or separate_async"
        )
    if t.mode != "separate_async" and t.rollout_processes:
        yield (
            f"trainer.rollout_processes: {t.rollout_processes} with trainer.mode: {t.mode}, whose vLLM lives on the "
            "actor's GPUs; set it to 0, or mode to separate_async"
        )


def _changed(ahead: AheadRecipe) -> str:
    plain = AheadRecipe()
    return ", ".join(f"{k} {v}" for k, v in vars(ahead).items() if v != getattr(plain, k))


@rule
def staleness_can_be_kept(r: Recipe) -> Iterator[str]:
    t = r.trainer
    least = math.ceil(t.ahead.batches)
    if t.mode != "sync" and t.ahead.max_staleness < least:
        yield (
            f"trainer.ahead.max_staleness: {t.ahead.max_staleness} with trainer.ahead.batches: {t.ahead.batches:g}: a "
            f"prompt waits {least} step(s) until those before it are used; raise max_staleness to {least}, or lower "
            "batches"
        )


@rule
def rollout_has_gpus_of_its_own(r: Recipe) -> Iterator[str]:
    t, tensor = r.trainer, r.rollout.engine.tensor_parallel
    if t.mode != "separate_async" or r.stage != "grpo":
        return
    if not t.rollout_processes:
        yield (
            "trainer.rollout_processes: 0 with trainer.mode: separate_async, where vLLM has GPUs of its own; say how "
            f"many (beside trainer.actor_processes {t.actor_processes}), or set mode to colocate_async"
        )
    elif t.rollout_processes % tensor:
        yield (
            f"trainer.rollout_processes {t.rollout_processes} is not a multiple of rollout.engine.tensor_parallel "
            f"{tensor}; change one of the two"
        )
    if r.device == "cuda" and tensor > t.gpus_per_node:
        yield (
            f"rollout.engine.tensor_parallel: {tensor} with trainer.gpus_per_node: {t.gpus_per_node}: a replica lies "
            "on one machine; lower tensor_parallel"
        )


@rule
def correction_has_its_log_probs(r: Recipe) -> Iterator[str]:
    c, temperature = r.objective.rollout_correction, r.rollout.temperature
    if r.stage == "grpo" and c.level is not None and temperature != 1:
        yield (
            f"objective.rollout_correction.level: {c.level} with rollout.temperature: {temperature:g}: vLLM says its "
            "log-probs before the temperature, the actor after it, so that their ratio is none; set temperature to 1, "
            "or level to null"
        )


@rule
def shown_masks_are_of_one_version(r: Recipe) -> Iterator[str]:
    if r.stage == "grpo" and r.trainer.mode != "sync" and r.verifies and r.answers != "boxes":
        yield (
            f"trainer.mode: {r.trainer.mode} with rollout.environment: {r.rollout.environment}: dialogues are under "
            "way while weights change, and the [SEG] states that their masks are drawn from go with the old ones; set "
            "mode to sync, or an environment that answers with boxes alone or shows no masks"
        )
