"""Bounds of single numbers, by dotted key. One line a number; rules between settings are in `checks`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

AT_LEAST: dict[str, float] = {
    "seed": 0,
    "data[].max_samples": 1,
    "data[].weight": 0,
    "val[].max_samples": 1,
    "policy.row_tokens": 1,
    "policy.lora.rank": 0,
    "policy.lora.alpha": 1,
    "policy.lora.dropout": 0,
    "policy.frame_features_gib": 0,
    "policy.pictures_gib": 0,
    "rollout.engine.loop_workers": 1,
    "rollout.max_turns": 1,
    "rollout.initial_low_res": 0,
    "rollout.initial_spatial": 0,
    "rollout.frames_per_turn": 1,
    "rollout.budgets.*": 4,
    "rollout.eval.budgets.*": 4,
    "rollout.eval.initial_low_res": 0,
    "rollout.eval.initial_spatial": 0,
    "rollout.eval.turn_length": 1,
    "rollout.eval.response_length": 1,
    "rollout.eval.box_frames": 2,
    "rollout.box_frames": 2,
    "rollout.box_side": 28,
    "rollout.verify_frames": 0,
    "rollout.prompt_length": 1,
    "rollout.response_length": 1,
    "rollout.turn_length": 1,
    "rollout.group_size": 1,
    "rollout.temperature": 0,
    "rollout.top_p": 1e-3,
    "rollout.engine.*": 0,
    "rollout.engine.max_model_len": 1,
    "rollout.engine.tensor_parallel": 1,
    "rollout.engine.gpu_memory_utilization": 0.01,
    "rollout.engine.kv_cache_gib": 1,
    "rollout.engine.max_num_seqs": 1,
    "rewards.propagation.frames": 1,
    "pool.workers": 1,
    "pool.cpus_per_worker": 0,
    "pool.gpus_per_worker": 0,
    "pool.cache_frames": 1,
    "objective.kl_coef": 0,
    "objective.clip_ratio": 0,
    "objective.aux_coef": 0,
    "objective.aux_min_iou": 0,
    "objective.advantage_eps": 0,
    "objective.rollout_correction.threshold": 1,
    "objective.calibration.topk": 0,
    "objective.calibration.weight": 0,
    "optim.*": 0,
    "sft_loss.*": 0,
    "trainer.*": 0,
    "trainer.steps": 1,
    "trainer.epochs": 1,
    "trainer.prompts_per_step": 1,
    "trainer.mini_batch_prompts": 1,
    "trainer.micro_batch": 1,
    "trainer.actor_processes": 1,
    "trainer.nodes": 1,
    "trainer.keep_checkpoints": 1,
    "trainer.keep_rollouts.*": 0,
    "trainer.keep_rollouts.groups": 1,
    "trainer.ahead.*": 0,
    "trainer.eval_samples": 1,
    "trainer.eval_draws": 1,
    "cluster.nodes": 1,
    "cluster.gpus_per_node": 0,
    "cluster.cpus_per_node": 1,
    "cluster.memory_gib": 1,
    "cluster.grace_seconds": 1,
}
"""The most specific pattern counts; ``*`` stands for one name, ``[]`` for any list item."""

AT_MOST: dict[str, float] = {
    "rollout.top_p": 1,
    "rollout.engine.gpu_memory_utilization": 1,
    "objective.calibration.topk": 1,
    "objective.aux_min_iou": 1,
    "policy.lora.dropout": 0.99,
    "optim.betas[]": 1,
    "optim.warmup_ratio": 1,
}


def out_of_range(recipe: Any) -> list[str]:
    """A sentence for each number outside its bounds, or not finite."""
    problems = []
    for path, pattern, value in _numbers(recipe):
        if not math.isfinite(value):
            problems.append(f"{path}: {value} is not a finite number")
            continue
        low = AT_LEAST.get(pattern, AT_LEAST.get(f"{pattern.rpartition('.')[0]}.*"))
        high = AT_MOST.get(pattern)
        if low is not None and value < low:
            problems.append(f"{path}: {value} is too small; the least is {low:g}")
        if high is not None and value > high:
            problems.append(f"{path}: {value} is too large; the most is {high:g}")
    return problems


def _numbers(node: Any, path: str = "", pattern: str = "") -> Iterator[tuple[str, str, float]]:
    """(path, pattern, value) of every number in the tree."""
    if is_dataclass(node):
        for f in fields(node):
            dot = "." if path else ""
            yield from _numbers(getattr(node, f.name), f"{path}{dot}{f.name}", f"{pattern}{dot}{f.name}")
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _numbers(value, f"{path}.{key}", f"{pattern}.{key}")
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _numbers(value, f"{path}[{i}]", f"{pattern}[]")
    elif isinstance(node, (int, float)) and not isinstance(node, bool):
        yield path, pattern, node
