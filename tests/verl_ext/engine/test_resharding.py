"""A checkpoint of n processes, continued by m: the next steps are those of the n."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rollout.errors import WorkerError
from verl_ext.engine.resharding import processes_of
from verl_ext.recipe import Recipe, save_resolved
from verl_ext.recipe.context import RECIPE_ENV

ROOT = Path(__file__).parents[3]
SETTINGS = ("optim.lr=1e-3", "optim.schedule=cosine", "optim.warmup_ratio=0.3", "trainer.micro_batch=1")
Run = Callable[..., list[dict[str, Any]]]


LORA = ("policy.lora.rank=4", "policy.lora.alpha=8", "policy.lora.dropout=0")


@pytest.fixture
def run(tiny_recipe: Callable[..., Recipe], tmp_path: Path) -> Run:
    """``run("save" or "load", processes, folder, *settings)``: the steps after the checkpoint."""

    def start(what: str, size: int, folder: Path, *more: str) -> list[dict[str, Any]]:
        name = f"{what}_{size}_{folder.name}"
        settings = (*SETTINGS, *more, f"trainer.actor_processes={size}")
        save_resolved(tiny_recipe("sft", *settings), tmp_path / f"{name}.yaml")
        env = os.environ | {
            "WORLD_SIZE": str(size),
            RECIPE_ENV: str(tmp_path / f"{name}.yaml"),
            "DIST_INIT_METHOD": f"file://{tmp_path}/{name}.rendezvous",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "0",
        }
        result = tmp_path / f"{name}.pt"
        command = [sys.executable, "-m", "tests.verl_ext.resharding_process", what, str(folder), str(result)]
        processes = []
        for rank in range(size):
            log = (tmp_path / f"{name}.{rank}.log").open("w")
            ranked = env | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            processes.append(subprocess.Popen(command, env=ranked, cwd=ROOT, stdout=log, stderr=log))
        try:
            codes = [p.wait(timeout=240) for p in processes]
        finally:
            for p in processes:
                p.kill()
        said = "".join((tmp_path / f"{name}.{r}.log").read_text()[-3000:] for r in range(size))
        assert codes == [0] * size, said
        found: list[dict[str, Any]] = torch.load(result, weights_only=False)
        return found

    return start


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("saved", "loaded", "settings"), [(2, 1, ()), (1, 2, LORA)], ids=["2to1", "1to2_lora"])
def test_the_next_steps_are_those_of_whoever_saved(
    run: Run, tmp_path: Path, saved: int, loaded: int, settings: tuple[str, ...]
) -> None:
    wanted = run("save", saved, tmp_path / "saved", *settings)
    found = run("load", loaded, tmp_path / "saved", *settings)
    assert len(found) == len(wanted) == 2
    assert wanted[0]["loss"] != pytest.approx(wanted[1]["loss"], abs=1e-4), "steps that change nothing show nothing"
    for step, (after, before) in enumerate(zip(found, wanted, strict=True)):
        for name in ("loss", "grad_norm"):
            assert after[name] == pytest.approx(before[name], abs=1e-5, rel=1e-5), (step, name)
        assert after["lr"] == before["lr"]


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / "model_world_size_2_rank_0.pt").touch()
    with pytest.raises(WorkerError, match=r"shards \[\(2, 0\)\] .* not those of one whole checkpoint"):
        processes_of(tmp_path)
    (tmp_path / "model_world_size_2_rank_1.pt").touch()
    assert processes_of(tmp_path) == 2
