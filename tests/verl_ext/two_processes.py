"""One process of a small FSDP group: a supervised and a reinforcement step on its share of a batch.

``python -m tests.verl_ext.two_processes RESULT`` with torch's RANK and WORLD_SIZE set; rank 0 writes RESULT.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from tests.verl_ext.batches import as_rollouts, jagged, supervised_batch
from tests.verl_ext.engines import gradients_of_step, supervised_step, training_worker
from verl_ext.recipe import Recipe

ROWS = (0, 1, 0, 2, 3, 2)
"""Of the data; one that is named twice is a group of two under one prompt, on one process."""
ADVANTAGES = (1.0, -0.7, 0.4, -1.1, 0.6, 0.9)
WITHOUT_SEG = (2, 3)
"""These dialogues have no ``[SEG]`` in reinforcement, so that processes differ in what they decode, and groups too."""


def measure(recipe: Recipe, rank: int, size: int) -> dict[str, Any]:
    """``{"sft" or "grpo": (metrics, gradients)}`` of the step on all rows, of which this rank does its share."""
    worker = training_worker(recipe)
    share = share_of(rank, size)
    return {
        "sft": supervised_step(worker, _batch(worker, share)),
        "grpo": gradients_of_step(worker, rollouts(worker, share), _rl_loss(recipe)),
    }


def share_of(rank: int, size: int) -> range:
    """Positions in ``ROWS``."""
    return range(rank * len(ROWS) // size, (rank + 1) * len(ROWS) // size)


def _batch(worker: Any, share: Sequence[int]) -> Any:
    from verl.utils import tensordict_utils as tu

    from verl_ext.supervised.dataset import SFTDataset

    model = worker.model_config
    rows = tuple(ROWS[i] for i in share)
    batch = supervised_batch(SFTDataset(["train"], model.tokenizer, None, model.processor), rows, micro_batch=1)
    tu.assign_non_tensor(batch, global_batch_size=len(ROWS))
    return batch


def rollouts(worker: Any, share: Sequence[int]) -> Any:
    """These of ``ROWS`` as dialogues whose old and reference log-probs are a little off this policy's."""
    from verl.utils import tensordict_utils as tu
    from verl.workers.utils.padding import response_from_nested

    from verl_ext.seg.episodes import non_tensor_rows

    batch = _batch(worker, share)
    for i, episode in zip(share, non_tensor_rows(batch, "episode"), strict=True):
        if i in WITHOUT_SEG:
            for turn in episode["turns"]:
                turn["seg_positions"] = []
    batch = as_rollouts(batch, [int(torch.nonzero(m)[0]) for m in batch["loss_mask"].unbind()])
    first = batch.clone(recurse=False)
    tu.assign_non_tensor(first, compute_loss=False, calculate_entropy=False)
    found = worker.infer_batch(first)
    now = response_from_nested(found["log_probs"], batch["response_mask"]).unbind()
    masks = batch["response_mask"].unbind()
    batch["old_log_probs"] = jagged([x + 0.1 * torch.sin(torch.arange(len(x))) for x in now])
    batch["ref_log_prob"] = jagged([x + 0.1 * torch.cos(torch.arange(len(x))) for x in now])
    batch["advantages"] = jagged([ADVANTAGES[i] * m for i, m in zip(share, masks, strict=True)])
    batch["old_mask_target"], batch["old_mask_log_prob"] = found["mask_target"], found["mask_log_prob"]
    return batch


def _rl_loss(recipe: Recipe) -> Any:
    from verl.utils.config import omega_conf_to_dataclass

    from verl_ext.objective.rl_loss import rl_loss
    from verl_ext.run.verl_config import grpo_config

    config = omega_conf_to_dataclass(grpo_config(replace(recipe, stage="grpo")).actor_rollout_ref.actor)
    return partial(rl_loss, config=config)


def main() -> None:
    from verl_ext.recipe.context import active_recipe

    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    found = measure(active_recipe(), rank, size)
    if rank == 0:
        torch.save(found, sys.argv[1])
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
