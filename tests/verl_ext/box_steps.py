"""One process of a small FSDP group with a real tiny Qwen2.5-VL, whose batch ends with rows that show no picture.

``python -m tests.verl_ext.box_steps RESULT`` with torch's RANK and WORLD_SIZE set; rank 0 writes RESULT.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from tests.verl_ext.batches import as_rollouts, supervised_batch
from tests.verl_ext.engines import gradients_of_step, training_worker
from verl_ext.recipe import Recipe

GROUP_OF_TWO = (0, 0)
WITHOUT_PICTURES = ((1, 1), (12, 1))
"""(prompt, response) tokens: a first message that did not fit, and verl's copy that fills a batch up."""


def measure(recipe: Recipe, rank: int, size: int) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """Log-probs of this rank's sequences, and the gradient of the sum over all of them."""
    worker = training_worker(recipe)
    rows = dialogues(worker)
    share = rows[rank * len(rows) // size : (rank + 1) * len(rows) // size]
    batch = rollouts(share)
    found = worker.infer_batch(for_log_probs(rollouts(share)))["log_probs"].unbind()
    _, gradients = gradients_of_step(worker, batch, partial(_sum_of_log_probs, config=None))
    return list(found), gradients


def dialogues(worker: Any, shown: Sequence[int] = GROUP_OF_TWO) -> list[dict[str, Any]]:
    """Supervised conversations of the recipe's data, then the rows without pictures."""
    from verl_ext.supervised.dataset import SFTDataset

    model = worker.model_config
    data = SFTDataset(["train"], model.tokenizer, None, model.processor)
    rows = [data[i] for i in shown]
    return rows + [without_pictures(rows[0], *lengths) for lengths in WITHOUT_PICTURES]


def without_pictures(like: dict[str, Any], prompt: int, response: int) -> dict[str, Any]:
    """A row of text of which nothing is scored; ``like`` gives its sample."""
    length = prompt + response
    return like | {
        "input_ids": torch.full((length,), 7),
        "position_ids": torch.arange(length).expand(4, length).clone(),
        "loss_mask": torch.tensor([0] * length),
        "multi_modal_inputs": {},
        "episode": like["episode"] | {"turns": []},
    }


def rollouts(rows: Sequence[dict[str, Any]]) -> Any:
    """The rows as reinforcement carries them, one a micro-batch."""
    prompts = [
        int(row["loss_mask"].nonzero()[0]) if row["loss_mask"].any() else len(row["loss_mask"]) - 1 for row in rows
    ]
    return as_rollouts(supervised_batch(rows, range(len(rows)), micro_batch=1), prompts)


def for_log_probs(batch: Any) -> Any:
    from verl.utils import tensordict_utils as tu

    tu.assign_non_tensor(batch, compute_loss=False, calculate_entropy=True)
    return batch


def _sum_of_log_probs(config: Any, model_output: Any, data: Any, dp_group: Any = None) -> Any:
    """Over scored tokens; times the processes, over which gradients are averaged."""
    total = 0.0
    for logp, mask in zip(model_output["log_probs"].unbind(), data["response_mask"].unbind(), strict=True):
        total = total + (logp[-len(mask) - 1 : -1] * mask).sum() + 0.0 * logp.sum()
    return total * data["dp_size"], {}


def main() -> None:
    from verl_ext.recipe.context import active_recipe

    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    found = measure(active_recipe(), rank, size)
    if rank == 0:
        torch.save(found, sys.argv[1])
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
