"""``videoseg train`` of an ``sft`` recipe: verl's SFT trainer under torchrun, with masks."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rollout.errors import WorkerError

if TYPE_CHECKING:
    from verl_ext.recipe import Recipe

POLICY_FOLDER = "policy"
"""Under the recipe's ``output_dir``: the trained policy."""


def train_sft(recipe: Recipe, resume: bool = True) -> Path:
    """Train until done and return the policy's folder. Output goes to ``output_dir/train.log``.

    Raises:
        WorkerError: a process failed; the message carries the end of its log.
    """
    from verl_ext.launch import worker_environment
    from verl_ext.recipe import save_resolved

    out = Path(recipe.output_dir).resolve()
    out.mkdir(parents=True, exist_ok=True)
    resolved = out / "resolved.yaml"
    save_resolved(recipe, resolved)
    env = {**os.environ, **worker_environment(recipe, resolved)}
    processes = recipe.trainer.actor_processes // recipe.trainer.nodes
    if processes == 1 and recipe.trainer.nodes == 1:  # without torchrun's own seconds of imports
        command = [sys.executable]
        env |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    else:
        command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", *rendezvous(recipe)]
    log = out / "train.log"
    with log.open("ab") as f:
        process = subprocess.Popen([*command, "-m", "verl_ext.sft_worker"], env=env, stdout=f, stderr=f)
        try:
            code = process.wait()
        except BaseException:
            process.terminate()  # torchrun passes it on to its workers
            process.wait(timeout=60)
            raise
    if code != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
        raise WorkerError(f"supervised training failed (exit {code}); the end of {log}:\n{tail}")
    return out / POLICY_FOLDER


def free_port() -> str:
    """A port of this machine that nothing listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def rendezvous(recipe: Recipe) -> list[str]:
    """torchrun's own options: standalone on one node, else what the cluster's launcher put into the environment."""
    if recipe.trainer.nodes == 1:
        return ["--standalone"]
    master = f"--master-addr={os.environ['MASTER_ADDR']}", f"--master-port={os.environ.get('MASTER_PORT', '29500')}"
    return [f"--nnodes={recipe.trainer.nodes}", f"--node-rank={os.environ['NODE_RANK']}", *master]
