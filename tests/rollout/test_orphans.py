"""What a killed process had started ends, also a loader's process that waits to hand over rows."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from torch.utils.data import DataLoader, Dataset

from rollout.orphans import die_with_loader
from verl_ext.recipe import Recipe

PR_GET_PDEATHSIG = 2
LOADS = """
import os, sys, time
from torch.utils.data import DataLoader, Dataset
from rollout.orphans import die_with_loader

class Rows(Dataset):
    def __len__(self):
        return 1000
    def __getitem__(self, i):
        die_with_loader()
        return "x" * 200_000  # more than a pipe holds: it waits for a reader

rows = iter(DataLoader(Rows(), num_workers=1, prefetch_factor=4))
next(rows)
time.sleep(0.5)
print(*(p.pid for p in rows._workers), flush=True)
time.sleep(600)
"""


POOL = """
import time
from data_construction.processes import in_order
from tests.rollout.test_orphans import name_and_wait

if __name__ == "__main__":
    for _ in in_order(name_and_wait, range(8), 2):
        pass
"""


def name_and_wait(piece: int) -> None:
    print(os.getpid(), flush=True)
    time.sleep(600)


@pytest.mark.parametrize(
    ("program", "number"), [(LOADS, signal.SIGKILL), (POOL, signal.SIGKILL), (POOL, signal.SIGTERM)]
)
def test_a_process_goes_with_a_killed_parent(program: str, number: int, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(program, encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=env)
    assert parent.stdout is not None
    loader = psutil.Process(int(parent.stdout.readline()))
    os.kill(parent.pid, number)
    parent.wait()
    deadline = time.monotonic() + 10
    while loader.is_running() and loader.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.1)
    gone = not loader.is_running() or loader.status() == psutil.STATUS_ZOMBIE
    if not gone:
        loader.kill()
    assert gone, "it held what its parent had opened"


def death_signal() -> int:
    found = ctypes.c_int(-1)
    ctypes.CDLL(None).prctl(PR_GET_PDEATHSIG, ctypes.byref(found))
    return found.value


class Signals(Dataset[int]):
    """What a data set's process is sent when its parent ends, after a row of it was read."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return 1

    def __getitem__(self, i: int) -> int:
        self.rows[i]
        return death_signal()


def test_reading_in_this_process_changes_nothing() -> None:
    before = death_signal()
    die_with_loader()
    assert death_signal() == before


@pytest.mark.parametrize("stage", ["grpo", "sft"])
def test_our_data_sets_ask_for_it(
    stage: str, tiny_recipe: Callable[..., Recipe], tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoProcessor

    from verl_ext.recipe import save_resolved
    from verl_ext.recipe.context import RECIPE_ENV
    from verl_ext.reinforce.dataset import RLDataset
    from verl_ext.supervised.dataset import SFTDataset

    save_resolved(tiny_recipe(stage), tmp_path / "recipe.yaml")
    monkeypatch.setenv(RECIPE_ENV, str(tmp_path / "recipe.yaml"))
    processor = AutoProcessor.from_pretrained(tiny_policy)
    kind: Any = {"grpo": RLDataset, "sft": SFTDataset}[stage]
    rows = Signals(kind(tokenizer=processor.tokenizer, processor=processor))
    assert next(iter(DataLoader(rows, num_workers=1, batch_size=None))) == signal.SIGKILL
