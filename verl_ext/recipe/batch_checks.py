"""Do batches divide over processes, and processes fit on the machines?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from verl_ext.recipe.rules import rule

if TYPE_CHECKING:
    from verl_ext.recipe.schema import Recipe


@rule
def batches_divide(r: Recipe) -> Iterator[str]:
    t = r.trainer
    group = r.rollout.group_size if r.stage == "grpo" else 1
    share = r.micro_batch * t.actor_processes
    holders = f"trainer.actor_processes {t.actor_processes}"
    if r.policy.packing == "none":
        holders = f"trainer.micro_batch {t.micro_batch} x {holders} = {share}"
    if r.stage == "grpo":
        if t.prompts_per_step % t.mini_batch_prompts:
            yield (
                f"trainer.prompts_per_step {t.prompts_per_step} is not a multiple of trainer.mini_batch_prompts "
                f"{t.mini_batch_prompts}; leave mini_batch_prompts out, or give a divisor"
            )
        if (t.mini_batch_prompts * group) % share:
            yield (
                f"trainer.mini_batch_prompts {t.mini_batch_prompts} x rollout.group_size {group} = "
                f"{t.mini_batch_prompts * group} rollouts do not divide over {holders}; change one of them"
            )
    elif t.prompts_per_step % share:
        yield (
            f"trainer.prompts_per_step {t.prompts_per_step} conversations do not divide over {holders}; "
            "change one of them"
        )


@rule
def processes_fit(r: Recipe) -> Iterator[str]:
    t, tensor = r.trainer, r.rollout.engine.tensor_parallel
    if t.actor_processes % t.nodes:
        yield (
            f"trainer.actor_processes {t.actor_processes} is not a multiple of trainer.nodes {t.nodes}; "
            "every node holds as many"
        )
    if r.stage == "grpo" and t.mode != "separate_async" and t.actor_processes % tensor:
        yield (
            f"trainer.actor_processes {t.actor_processes} is not a multiple of rollout.engine.tensor_parallel "
            f"{tensor}: vLLM's replicas live on the actor's GPUs; change one of the two"
        )
    if r.device == "cuda":
        yield from _gpus_suffice(r)


def pool_workers(r: Recipe) -> int:
    """Actors of the segmenter pool: none in the supervised stages, nor for a box policy whose recipe names no SAM 2."""
    without = r.method == "veason_r1" and r.pool.checkpoint is None
    return 0 if r.stage == "sft" or without else r.pool.workers


def scores_as_they_end(r: Recipe) -> bool:
    """Whether a dialogue is scored once it has ended, while others roll out: boxes, in the asynchronous modes.
    ``[SEG]`` states are there only after the actor's pass over the whole batch."""
    return r.trainer.mode != "sync" and r.answers == "boxes" and pool_workers(r) > 0


def _gpus_suffice(r: Recipe) -> Iterator[str]:
    t, pool, workers = r.trainer, r.pool, pool_workers(r)
    wanted = t.actor_processes + t.rollout_processes + workers * pool.gpus_per_worker
    have = t.gpus_per_node * t.nodes
    apart = f"{t.rollout_processes} trainer.rollout_processes + " if t.rollout_processes else ""
    if wanted > have:
        yield (
            f"{wanted:g} GPUs = {t.actor_processes} trainer.actor_processes + {apart}{workers} pool.workers x "
            f"{pool.gpus_per_worker:g} pool.gpus_per_worker exceed {have} = {t.nodes} trainer.nodes x "
            f"{t.gpus_per_node} trainer.gpus_per_node; lower actor_processes{', rollout_processes' if apart else ''} "
            "or pool.workers, or let workers share a GPU by a fraction"
        )
    if t.actor_processes // t.nodes > t.gpus_per_node:
        yield (
            f"trainer.actor_processes {t.actor_processes} / trainer.nodes {t.nodes} = {t.actor_processes // t.nodes} "
            f"a node exceed trainer.gpus_per_node {t.gpus_per_node}; add nodes or lower actor_processes"
        )
