"""Real schedulers: ``make test-cluster``. Outside ``make test``, which has neither their packages nor their minutes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.slurm import Slurm
from verl_ext.run.run_files import METRICS, read_metrics, scalar

SECONDS = 1500
STEPS = {"sft": 120, "grpo": 4}
"""So many that the first one is seen before the last one is taken."""
STAGES = {
    "sft": ["trainer.prompts_per_step=4", "optim.lr=1e-3"],
    # the most likely token always: rollouts that are drawn are other ones after a resume, as vLLM starts anew. A
    # group's rewards are equal then, so that the divergence from the reference is what trains, and it is given weight
    "grpo": [
        *("trainer.prompts_per_step=2", "rollout.group_size=2", "rollout.top_p=0.001"),
        *("optim.lr=1e-3", "objective.kl_coef=10"),
    ],
}
COMPARED = {
    "sft": ("train/loss", "lm", "mask_ce", "dice"),
    "grpo": ("reward/mean", "actor/entropy", "actor/kl_loss", "actor/grad_norm", "response_length/mean"),
}


@dataclass
class Launcher:
    """``videoseg`` in a folder, beside a scheduler; what was typed and said is kept."""

    folder: Path
    settings: Callable[[str], list[str]]
    recipe: Path
    env: dict[str, str]
    nodes: int = 2
    said: list[str] = field(default_factory=list)

    def videoseg(self, *words: str, check: bool = True) -> str:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", **self.env}
        command = [sys.executable, "-m", "verl_ext.cli.main", *words]
        done = subprocess.run(command, env=env, cwd=self.folder, capture_output=True, text=True)
        self.said.append(f"$ videoseg {' '.join(words)}\n{done.stdout}{done.stderr}")
        assert not check or done.returncode == 0, self.said[-1]
        return done.stdout

    def launch(self, name: str, stage: str, *overrides: str) -> None:
        sizes = [f"trainer.nodes={self.nodes}", f"trainer.actor_processes={self.nodes}", "trainer.micro_batch=2"]
        steps = [f"trainer.steps={STEPS[stage]}", "trainer.save_every=0"]
        own = [f"name={name}", f"output_dir={name}", *self.settings(stage), *STAGES[stage], *sizes, *steps]
        self.videoseg("launch", str(self.recipe), *own, *overrides)

    def out(self, name: str) -> Path:
        return self.folder / name

    def steps(self, name: str) -> dict[int, dict[str, Any]]:
        rows = [r for n in (METRICS, "metrics.live.jsonl") for r in read_metrics(self.out(name) / n)]
        return {row["step"]: row["data"] for row in rows if row["step"] > 0}

    def wait(self, what: Callable[[], Any], words: str, seconds: float = SECONDS) -> None:
        end = time.monotonic() + seconds
        while not what():
            if time.monotonic() > end:
                pytest.fail(f"{words} after {seconds:.0f} s\n" + "\n".join(self.said[-3:]))
            time.sleep(1)

    def wait_for_step(self, name: str, step: int) -> None:
        self.wait(lambda: step in self.steps(name), f"{name}: no step {step}")

    def state(self, name: str) -> str:
        return self.videoseg("launch", "status", name)

    def wait_for_end(self, name: str) -> str:
        """The last state."""
        ended = ("finished", "stopped on request", "FAILED", "not in the queue")
        self.wait(lambda: any(word in self.state(name) for word in ended), f"{name}: has not ended")
        return self.state(name)

    def result(self, name: str) -> dict[str, bool]:
        found: dict[str, bool] = json.loads((self.out(name) / "result.json").read_text())
        return found

    def same(self, stage: str, one: str, other: str) -> None:
        """All steps of two runs have the same numbers."""
        first, second = self.steps(one), self.steps(other)
        assert set(first) == set(second) == set(range(1, STEPS[stage] + 1))
        for step in first:
            for metric in COMPARED[stage]:
                a, b = (scalar(run[step][metric]) for run in (first, second))
                assert a == pytest.approx(b, abs=1e-5), (step, metric)

    def tell(self, what: str) -> None:
        """Leave the transcript where VIDEOSEG_TRANSCRIPTS says."""
        if folder := os.environ.get("VIDEOSEG_TRANSCRIPTS"):
            (Path(folder) / f"{what}.txt").write_text("\n".join(self.said))


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    started = Slurm(tmp_path_factory.mktemp("slurm") / "s")
    yield started
    started.close()


@pytest.fixture
def launcher(
    tmp_path: Path, tiny_settings: Callable[[str], list[str]], tiny_recipe_file: Path
) -> Callable[[dict[str, str]], Launcher]:
    return lambda env: Launcher(tmp_path, tiny_settings, tiny_recipe_file, env)
