"""What each GPU of a machine holds, while weights are updated and while dialogues are rolled out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from verl_ext.recipe.batch_checks import pool_workers
from verl_ext.recipe.memory import actor_gib, engine_gib, pool_gib
from verl_ext.recipe.model_size import ModelSize

if TYPE_CHECKING:
    from verl_ext.recipe.schema import Recipe

OF_A_PASS = ("activations", "logits", "gradients", "gathered weights")
"""What an actor holds only while it updates."""


@dataclass
class PlannedGpu:
    """Neighbouring GPUs of every machine that hold the same."""

    gpus: str
    """Numbers within a machine."""
    updating: dict[str, float | None] = field(default_factory=dict)
    """GiB on one of them, by process, while the actor updates; None where the policy's size is not known."""
    rolling_out: dict[str, float | None] = field(default_factory=dict)
    """The same while vLLM is awake, without its KV cache."""
    kv_cache: str = ""
    """What vLLM takes beside its weights, in words."""


def place(recipe: Recipe, size: ModelSize) -> list[PlannedGpu]:
    """The GPUs of one machine, all machines being alike; empty on a CPU. Memory by `verl_ext.recipe.memory`."""
    t, pool = recipe.trainer, recipe.pool
    if recipe.device != "cuda":
        return []
    own = t.actor_processes // t.nodes
    groups = [_actors(recipe, size, own)]
    if recipe.rolls_out_apart:
        apart = math.ceil(t.rollout_processes / t.nodes)
        known = size.parameters is not None
        vllm: dict[str, float | None] = {"vLLM": sum(engine_gib(recipe, size).values()) if known else None}
        groups.append(PlannedGpu(numbers(own, apart), vllm, vllm, _kv_cache(recipe)))
        own += apart
    workers = pool_workers(recipe)
    each = sum(pool_gib(recipe, size).values())
    if workers and pool.gpus_per_worker:
        for_pool = math.ceil(workers * pool.gpus_per_worker / t.nodes)
        on_one = math.ceil(workers / t.nodes / for_pool)
        held: dict[str, float | None] = {f"pool x {on_one}" if on_one > 1 else "pool": on_one * each}
        groups.append(PlannedGpu(numbers(own, for_pool), held, held))
        own += for_pool
    elif workers and pool.share_gpu:
        groups[0].updating["pool"] = groups[0].rolling_out["pool"] = each
    if own < t.gpus_per_node:
        groups.append(PlannedGpu(numbers(own, t.gpus_per_node - own)))
    return groups


def _actors(recipe: Recipe, size: ModelSize, count: int) -> PlannedGpu:
    parts = actor_gib(recipe, size)
    out = PlannedGpu(numbers(0, count), {"actor": sum(parts.values()) if parts else None})
    if recipe.stage == "grpo":
        stays = sum(gib for name, gib in parts.items() if name not in OF_A_PASS)
        vllm = sum(engine_gib(recipe, size).values())
        out.rolling_out = {"actor": stays, "vLLM": vllm} if parts else {"actor": None, "vLLM": None}
        if recipe.rolls_out_apart:
            del out.rolling_out["vLLM"]
        else:
            out.kv_cache = _kv_cache(recipe)
    return out


def _kv_cache(recipe: Recipe) -> str:
    return f"vLLM up to {recipe.rollout.engine.gpu_memory_utilization:.0%} of the GPU, KV cache included"


def numbers(first: int, count: int) -> str:
    """``GPU 0`` or ``GPU 0-3``."""
    return f"GPU {first}" if count == 1 else f"GPU {first}-{first + count - 1}"
