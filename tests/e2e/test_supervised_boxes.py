"""Veason-R1's supervised stage on two processes with a tiny Qwen2.5-VL, and its policy evaluated on two layouts."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from data_construction.layouts import write_layout
from eval.inference.worker import cpu_environment
from tests.box_policies import published
from tests.e2e.runs import VIDEOSEG, Run, train
from verl_ext.policy.checkpoint import load_policy

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
OTHER = "reasonvos"
SFT = (
    "trainer.actor_processes=2",
    "trainer.steps=12",
    "trainer.prompts_per_step=4",
    "trainer.micro_batch=2",
    "optim.lr=3e-3",
)


@pytest.fixture(scope="module")
def started_from(tiny_box_policies: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(tiny_box_policies["untied"], tmp_path_factory.mktemp("published") / "policy")


@pytest.fixture(scope="module")
def taught(
    tmp_path_factory: pytest.TempPathFactory,
    started_from: Path,
    tiny_box_recipe_file: Path,
    tiny_box_settings: Callable[..., list[str]],
) -> Run:
    out = tmp_path_factory.mktemp("boxes") / "sft"
    places = (f"policy.path={started_from}", f"output_dir={out}")
    return train(out, str(tiny_box_recipe_file), *tiny_box_settings("sft"), *places, *SFT)


def test_two_processes_teach_it_the_traces(taught: Run, started_from: Path) -> None:
    assert taught.code == 0, taught.said[-3000:]
    assert taught.last == 12 and taught.left == []
    assert taught.metric(12, "train/loss") < 0.8 * taught.metric(1, "train/loss")
    before, after = load_policy(started_from), load_policy(taught.out / "policy")
    assert after.config.model_type == "qwen2_5_vl"
    assert not before.lm_head.weight.equal(after.lm_head.weight)


@pytest.mark.parametrize("layout", ["revos", OTHER])
def test_its_policy_is_evaluated(layout: str, taught: Run, tiny_data: Path, tmp_path: Path, tiny_sam2: Path) -> None:
    root, split = tiny_data, "valid"
    if layout == OTHER:
        root, split = tmp_path / "data", "test"
        write_layout(layout, root, seed=0, clips=2)
    out = tmp_path / "eval"
    command = [VIDEOSEG, "eval", str(taught.out / "policy"), "--recipe", str(taught.out / "resolved.yaml")]
    command += ["--dataset", layout, "--root", str(root), "--split", split, "--out", str(out), "--device", "cpu"]
    command += ["--set", f"pool.checkpoint={tiny_sam2}", "--set", "pool.preset=tiny"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=400, env={**os.environ, **cpu_environment()}, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    (scores,) = [json.loads(file.read_text()) for file in out.rglob("scores.json")]
    assert scores["expressions"] and not scores["missing"] and not scores["failed"]
    assert 0.0 <= scores["overall"]["metrics"]["jf"]["mean"] <= 100.0
