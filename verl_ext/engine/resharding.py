"""A checkpoint that n processes wrote, continued by m: verl's shards are put together and dealt anew, as they are read.

verl (0.9.1) saves what each process holds, in files that carry the number of processes in their names, and loads the
same number. Each tensor of them is a ``DTensor`` that knows how it was split. One tensor at a time is whole in memory.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager

from rollout.errors import WorkerError

logger = logging.getLogger(__name__)

_SHARD = re.compile(r"model_world_size_(\d+)_rank_(\d+)\.pt")


class ElasticCheckpoints(FSDPCheckpointManager):  # type: ignore[misc]
    """Saves as verl does, and loads what any number of processes saved."""

    def load_checkpoint(
        self, local_path: str, hdfs_path: str | None = None, del_local_after_load: bool = False
    ) -> None:
        """Weights, optimiser, schedule and random state. Raises WorkerError if a process's file is missing."""
        folder = Path(local_path) if local_path is not None else None
        if folder is None or (written_by := processes_of(folder)) == self.world_size:
            super().load_checkpoint(local_path, hdfs_path, del_local_after_load)
            return
        if self.rank == 0:
            logger.warning("%s was written by %d processes, %d read it", folder, written_by, self.world_size)
        self.model.load_state_dict(_dealt(_load(folder, "model", written_by), self.model.state_dict()))
        self.optimizer.load_state_dict(_optimizer(_load(folder, "optim", written_by), self.optimizer))
        extra = torch.load(folder / _name("extra_state", written_by, self.rank % written_by), weights_only=False)
        self.load_rng_state(extra["rng"])
        if self.lr_scheduler is not None and extra["lr_scheduler"] is not None:
            self.lr_scheduler.load_state_dict(extra["lr_scheduler"])
        torch.distributed.barrier()


def processes_of(folder: Path) -> int:
    """How many processes wrote the checkpoint.

    Raises:
        WorkerError: none did, or a file of one is missing.
    """
    found = [tuple(map(int, m.groups())) for f in folder.glob("model_*.pt") if (m := _SHARD.fullmatch(f.name))]
    sizes = {size for size, _ in found}
    if len(sizes) != 1 or sorted(rank for _, rank in found) != list(range(max(sizes))):
        raise WorkerError(f"{folder}: shards {sorted(found)} (processes, rank) are not those of one whole checkpoint")
    return sizes.pop()


def _name(kind: str, size: int, rank: int) -> str:
    return f"{kind}_world_size_{size}_rank_{rank}.pt"


def _load(folder: Path, kind: str, size: int) -> list[Any]:
    """All processes' files; their tensors stay on the disk until they are touched."""
    files = [folder / _name(kind, size, rank) for rank in range(size)]
    return [torch.load(f, map_location="cpu", weights_only=False, mmap=True) for f in files]


def _dealt(saved: Sequence[dict[str, Any]], now: dict[str, Any]) -> dict[str, Any]:
    """The saved state of each name, split as the present one is."""
    return {name: _as(_whole([part[name] for part in saved]), like) for name, like in now.items()}


def _optimizer(saved: Sequence[dict[str, Any]], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Parameters are numbered in the same order whoever holds them."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for number, values in saved[0]["state"].items():
        whole = {key: _whole([part["state"][number][key] for part in saved]) for key in values}
        like = parameters[number]
        state[number] = {key: _as(v, like) if getattr(v, "ndim", 0) else v for key, v in whole.items()}
    return {"state": state, "param_groups": saved[0]["param_groups"]}


def _whole(parts: Sequence[Any]) -> Any:
    """One value of all processes' pieces; what is no sharded tensor is every process's own copy."""
    first = parts[0]
    if not isinstance(first, DTensor):
        return first
    (placement,) = first.placements
    if isinstance(placement, Replicate):
        return first._local_tensor
    assert isinstance(placement, Shard), placement
    return torch.cat([part._local_tensor for part in parts if part._local_tensor.numel()], dim=placement.dim)


def _as(value: Any, like: Any) -> Any:
    """This process's piece of ``value``, split and placed as ``like`` is. No communication."""
    if not isinstance(like, DTensor) or not isinstance(value, torch.Tensor):
        return value
    placed = value.to(like._local_tensor.device)
    return distribute_tensor(placed, like.device_mesh, like.placements, src_data_rank=None)
