"""What a recipe would start, where, and how much memory it expects: shown and written by ``--dry-run``."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from verl_ext.recipe.asking import box_notes
from verl_ext.recipe.batch_checks import pool_workers
from verl_ext.recipe.memory import PYTHON_GIB, actor_gib, actor_host_gib, engine_gib, needs_reference, pool_gib
from verl_ext.recipe.model_size import ModelSize, model_size
from verl_ext.recipe.placement import PlannedGpu, place
from verl_ext.recipe.placement import numbers as _gpus

if TYPE_CHECKING:
    from verl_ext.recipe.schema import Recipe


@dataclass
class PlannedProcess:
    """One kind of process."""

    role: str
    count: int
    """Over all nodes."""
    devices: str
    """In words: which GPUs of a node, or the CPU."""
    gib: float | None
    """Expected memory of one on its device; None if the policy's size is not known yet."""
    parts: dict[str, float] = field(default_factory=dict)
    """What ``gib`` consists of."""
    host_gib: float = 0.0
    """Expected memory of one on the host (on a CPU all of it is there)."""


@dataclass
class Plan:
    """Everything that a run would start."""

    name: str
    stage: str
    device: str
    nodes: int
    rollouts_per_step: int
    model: ModelSize
    processes: list[PlannedProcess]
    gpus: list[PlannedGpu] = field(default_factory=list)
    """Of every machine."""
    notes: list[str] = field(default_factory=list)

    @property
    def host_gib(self) -> float:
        """Expected memory of all processes on the hosts together."""
        return sum(p.count * p.host_gib for p in self.processes)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "host_gib": self.host_gib}


def plan(recipe: Recipe) -> Plan:
    """Processes, devices and memory (formulas in `verl_ext.recipe.memory`). Reads the policy's headers, loads nothing.

    Raises:
        DataError: the policy's folder holds a damaged file.
    """
    size = model_size(recipe.policy.path)
    processes = [_driver(recipe), _actors(recipe, size)]
    if recipe.stage == "grpo":
        processes.append(_engines(recipe, size))
        processes += [_pool(recipe, size)] if pool_workers(recipe) else []
        processes += _helpers(recipe)
    rollouts = recipe.rollouts_per_step if recipe.stage == "grpo" else 0
    out = Plan(
        recipe.name,
        recipe.stage,
        recipe.device,
        recipe.trainer.nodes,
        rollouts,
        size,
        processes,
        place(recipe, size),
    )
    out.notes += _notes(recipe, size, out)
    return out


def _process(
    recipe: Recipe,
    role: str,
    count: int,
    gpus: str,
    parts: dict[str, float],
    known: bool,
    host: dict[str, float] | None = None,
) -> PlannedProcess:
    """``parts`` lie on the device, ``host`` beside the interpreter on the host."""
    host = host or {}
    if gpus == "CPU" or recipe.device == "cpu":
        parts = parts | host
    gib = sum(parts.values()) if known else None
    if gpus == "CPU" or recipe.device == "cpu":
        gib = None if gib is None else gib + PYTHON_GIB
        return PlannedProcess(role, count, "CPU", gib, parts | {"Python": PYTHON_GIB}, gib or PYTHON_GIB)
    return PlannedProcess(role, count, gpus, gib, parts, PYTHON_GIB + sum(host.values()))


def _driver(recipe: Recipe) -> PlannedProcess:
    if recipe.stage == "sft":  # torchrun, one a machine
        return PlannedProcess("supervisor", recipe.trainer.nodes, "CPU", PYTHON_GIB, {"Python": PYTHON_GIB}, PYTHON_GIB)
    return PlannedProcess("driver and Ray", 1, "CPU", 1.0, {"Python": 1.0}, 1.0)


def _actors(recipe: Recipe, size: ModelSize) -> PlannedProcess:
    t = recipe.trainer
    role = "actor + reference (FSDP)" if needs_reference(recipe) else "actor (FSDP)"
    parts = actor_gib(recipe, size)
    gpus, host = _gpus(0, t.actor_processes // t.nodes), actor_host_gib(recipe, size)
    return _process(recipe, role, t.actor_processes, gpus, parts, bool(parts), host)


def _engines(recipe: Recipe, size: ModelSize) -> PlannedProcess:
    t, engine = recipe.trainer, recipe.rollout.engine
    replicas, count = recipe.rollout_processes // engine.tensor_parallel, recipe.rollout_processes
    if recipe.rolls_out_apart:
        gpus = f"{_gpus(t.actor_processes // t.nodes, math.ceil(count / t.nodes))}, its own"
    else:
        gpus = f"{_gpus(0, count // t.nodes)}, {engine.gpu_memory_utilization:.0%} of each while awake"
    role = f"vLLM ({replicas} replica{'s' if replicas > 1 else ''})"
    known = size.parameters is not None
    return _process(recipe, role, count, gpus, engine_gib(recipe, size), known)


def _pool(recipe: Recipe, size: ModelSize) -> PlannedProcess:
    t, pool = recipe.trainer, recipe.pool
    first = t.actor_processes // t.nodes + math.ceil(t.rollout_processes / t.nodes)
    own = math.ceil(pool.workers * pool.gpus_per_worker / t.nodes)
    gpus = _gpus(first, own) if own else "GPU 0, beside an actor" if pool.share_gpu else "CPU"
    return _process(recipe, "segmenter pool", pool.workers, gpus, pool_gib(recipe, size), True)


def _helpers(recipe: Recipe) -> list[PlannedProcess]:
    loops = 1 if recipe.device == "cpu" else recipe.rollout_processes
    return [
        PlannedProcess("dialogue workers", loops, "CPU", PYTHON_GIB, {"Python": PYTHON_GIB}, PYTHON_GIB),
        PlannedProcess("task runner, reward, queue", 4, "CPU", PYTHON_GIB, {"Python": PYTHON_GIB}, PYTHON_GIB),
    ]


def _notes(recipe: Recipe, size: ModelSize, planned: Plan) -> list[str]:
    notes = [f"policy {recipe.policy.path}: size {size.source}"]
    if size.parameters is None:
        notes.append("memory of actor and vLLM is not known until policy.path exists")
    else:
        saved = actor_host_gib(recipe, size)["copy while saving"] * recipe.trainer.actor_processes
        notes.append(f"saving a policy holds all of it, {saved:.1f} GiB, in the first actor's host memory")
    if size.parameters is not None and size.hidden is None:
        notes.append("activations and logits are not counted: policy.path has no config.json")
    notes += box_notes(recipe)
    if recipe.stage == "grpo":
        if not pool_workers(recipe):
            notes.append("no segmenter pool: pool.checkpoint is null, and no reward of this recipe asks SAM 2")
        elif recipe.device == "cuda" and recipe.pool.gpus_per_worker == 0 and not recipe.pool.share_gpu:
            notes.append("pool.gpus_per_worker is 0: the segmenter pool runs on the CPU, which is slow")
        notes.append(
            f"a step: {recipe.trainer.prompts_per_step} prompts x {recipe.rollout.group_size} = "
            f"{planned.rollouts_per_step} rollouts of up to {recipe.rollout.max_turns} turn(s)"
            f"{' and a verification turn' if recipe.verifies else ''}"
        )
        if recipe.trainer.mode != "sync":
            ahead = recipe.trainer.ahead
            notes.append(
                f"{recipe.trainer.mode}: rollouts run {ahead.batches:g} step(s) ahead, with weights that are at most "
                f"{ahead.max_staleness} update(s) old when they are learnt from"
            )
    return notes
