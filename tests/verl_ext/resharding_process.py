"""One process of an FSDP group that trains, saves in between, or goes on from what another group saved.

``python -m tests.verl_ext.resharding_process save|load FOLDER RESULT`` with torch's RANK and WORLD_SIZE set; rank 0
writes RESULT: loss and gradient norm of the steps after the checkpoint.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import torch

from tests.verl_ext.engines import supervised_step, training_worker
from tests.verl_ext.two_processes import _batch, share_of
from verl_ext.recipe.context import active_recipe

STEPS_AFTER = 2


def main() -> None:
    what, folder, result = sys.argv[1:]
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    worker = training_worker(active_recipe())

    def step() -> dict[str, Any]:
        metrics, _ = supervised_step(worker, _batch(worker, share_of(rank, size)))
        return {name: float(metrics[name]) for name in ("loss", "grad_norm")} | {"lr": metrics["lr"]}

    if what == "save":
        step()
        worker.engine.save_checkpoint(local_path=folder, global_step=1)
    else:
        worker.engine.load_checkpoint(local_path=folder)
    found = [step() for _ in range(STEPS_AFTER)]
    if rank == 0:
        torch.save(found, result)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
