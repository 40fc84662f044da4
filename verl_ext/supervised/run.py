"""``videoseg train`` of an ``sft`` recipe: verl's SFT trainer under torchrun, with masks."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollout.errors import RecipeError
from verl_ext.run.checkpoints import POLICY_FOLDER
from verl_ext.run.supervise import Progress, alone_in, scalar, supervise

if TYPE_CHECKING:
    from verl_ext.recipe import Recipe

__all__ = ["POLICY_FOLDER", "train_sft"]


def train_sft(recipe: Recipe, resume: bool = True, progress: Progress | None = None) -> Path | None:
    """Train until done and return the policy's folder, or None if it was stopped early (a checkpoint is kept).

    ``output_dir/policy`` is a link to the newest policy from the first checkpoint on.

    Raises:
        WorkerError: a process failed; the message carries the end of its log.
        RecipeError: another training process is at work in ``output_dir``, or the recipe cannot continue what is there.
    """
    from verl_ext.run.prepare import node_folder, prepare_run

    out = Path(recipe.output_dir).resolve()
    with alone_in(node_folder(recipe)):
        recipe, env = prepare_run(recipe, resume)
        command, places = _command(recipe)
        finished = supervise(
            [*command, "-m", "verl_ext.run.process", "verl_ext.supervised.worker"],
            env | places,
            node_folder(recipe),
            recipe.trainer.steps,
            progress,
            _describe,
            run_dir=out,
        )
        return out / POLICY_FOLDER if finished else None


def _command(recipe: Recipe) -> tuple[list[str], dict[str, str]]:
    """How Python is started on this machine, and what its environment needs for that."""
    processes = recipe.trainer.actor_processes // recipe.trainer.nodes
    if processes > 1 or recipe.trainer.nodes > 1:
        launcher = [sys.executable, "-m", "verl_ext.run.process", "torch.distributed.run"]
        return [*launcher, f"--nproc-per-node={processes}", *rendezvous(recipe)], {}
    # without torchrun's own seconds of imports
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    return [sys.executable], alone | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}


def _describe(metrics: Mapping[str, Any]) -> str:
    parts = {"loss": "train/loss", "text": "lm", "dice": "dice"}
    found = {name: scalar(metrics.get(key)) for name, key in parts.items()}
    return ", ".join(f"{name} {value:.3f}" for name, value in found.items() if value is not None)


def free_port() -> str:
    """A port of this machine that nothing listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def _is_free(port: str) -> bool:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as torchrun's own store does
        try:
            s.bind(("", int(port)))
        except OSError:
            return False
    return True


def rendezvous(recipe: Recipe) -> list[str]:
    """torchrun's own options: standalone on one node, else what the cluster's launcher put into the environment.

    Raises:
        RecipeError: several nodes, but the environment does not say which of them this is, or the port is taken.
    """
    nodes = recipe.trainer.nodes
    if nodes == 1:
        return ["--standalone"]
    missing = [name for name in ("MASTER_ADDR", "NODE_RANK") if name not in os.environ]
    if missing:
        raise RecipeError(
            f"trainer.nodes: {nodes}, but {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set: run "
            "the command on every machine with MASTER_ADDR (the first machine's name) and NODE_RANK (0, 1, ...), as "
            "videoseg launch does with cluster.kind=slurm"
        )
    port = os.environ.get("MASTER_PORT", "29500")
    if os.environ["NODE_RANK"] == "0" and not _is_free(port):
        raise RecipeError(f"MASTER_PORT: {port} is in use on this machine; export another one on every machine")
    master = f"--master-addr={os.environ['MASTER_ADDR']}", f"--master-port={port}"
    return [f"--nnodes={nodes}", f"--node-rank={os.environ['NODE_RANK']}", *master]
