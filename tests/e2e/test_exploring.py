"""The study at tiny size through every real part: clips, both supervised stages, arms of RL, evaluation, figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import exploring
from benchmarks.exploring_arms import BASE, SUPERVISED, Arm
from verl_ext.quickstart.exploring import exploring_settings
from verl_ext.quickstart.settings import Layout, QuickstartSettings
from verl_ext.run.run_files import METRICS
from verl_ext.run.supervise import read_metrics

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
FEW = ("trainer.steps=2", "trainer.prompts_per_step=2", "trainer.mini_batch_prompts=2", "trainer.micro_batch=2")
ONE = ("trainer.steps=1", "trainer.save_every=1", "trainer.eval_every=0", "rollout.group_size=2", "optim.lr=1e-4")
DRAWN = ("drawn_states", "credit_by_part")


def tiny() -> QuickstartSettings:
    full = exploring_settings("cpu", rl_steps=1)
    return replace(
        full,
        clips={"train": 3, "valid": 1, "test": 1},
        size=128,
        warm_up_steps=2,
        reading={"steps": 2, "batch": 4},
        dialogues={"steps": 2, "batch": 4},
        test_samples=2,
        segmentation=(*full.segmentation, *FEW, "rollout.budgets.spatial=21"),
        cold_start=(*full.cold_start, *FEW, "trainer.steps=40", "optim.lr=3e-3"),
        grpo=(*full.grpo, *FEW, *ONE),
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Layout, dict[str, Any]]:
    layout = Layout(tmp_path_factory.mktemp("study"))
    proved = {"oracles": {"ground_truth_keyframe": {"jf": 99.0}}, "readers": {}}
    (layout.out / "oracles.json").write_text(json.dumps(proved))  # they have tests of their own
    return layout, exploring.run_study(layout, tiny(), [BASE, SUPERVISED, *DRAWN], [0], minutes=None)


def test_every_arm_is_trained_evaluated_and_held_against_the_base(study: tuple[Layout, dict[str, Any]]) -> None:
    _, found = study
    assert found["left"] == [] and set(found["arms"]) == {BASE, SUPERVISED, *DRAWN}
    assert found["arms"][BASE]["jf_gain"] == 0.0 and len(found["rl"]["jf_gain"]) == 1
    assert 0 <= found["cold_start"]["jf"] <= 100 and found["oracles"] == {"ground_truth_keyframe": 99.0}
    json.dumps(found)


@pytest.mark.parametrize("name", [BASE, *DRAWN])
def test_the_first_step_is_on_policy_and_its_gradients_are_logged(
    study: tuple[Layout, dict[str, Any]], name: str
) -> None:
    rows = [r["data"] for r in read_metrics(Arm(name, 0).folder(study[0]) / METRICS) if "actor/grad_norm" in r["data"]]
    assert len(rows) == 1
    assert abs(float(rows[0]["actor/ppo_kl"])) < 1e-6 and float(rows[0]["actor/pg_clipfrac"]) == 0.0
    terms = {key.split("/")[2] for key in rows[0] if key.startswith("actor/grad/")}
    assert terms == {"text", "calibration", "auxiliary"}


def test_the_same_call_does_nothing_twice(study: tuple[Layout, dict[str, Any]]) -> None:
    layout, found = study
    before = {p: p.stat().st_mtime_ns for p in (layout.out / "arms").rglob("*.safetensors")}
    again = exploring.run_study(layout, tiny(), [BASE, SUPERVISED, *DRAWN], [0], minutes=None)
    assert again == found
    assert before == {p: p.stat().st_mtime_ns for p in (layout.out / "arms").rglob("*.safetensors")}


def test_the_policy_is_evaluated_on_blank_pictures(study: tuple[Layout, dict[str, Any]]) -> None:
    from typer.testing import CliRunner

    from verl_ext.cli.main import app

    layout, _ = study
    recipe = layout.out / "grpo.yaml"
    from verl_ext.quickstart.settings import stage_recipe
    from verl_ext.recipe import save_resolved

    save_resolved(stage_recipe(layout, "grpo.yaml", tiny(), 0), recipe)
    args = ["eval", str(layout.cold_start / "policy"), "--recipe", str(recipe), "--dataset", "revos", "--split", "test"]
    done = CliRunner().invoke(
        app, [*args, "--root", str(layout.data), "--out", str(layout.out / "looks"), "--images", "blank"]
    )
    assert done.exit_code == 0, done.output + str(done.exception)
    run = json.loads((Path(layout.out) / "looks" / "images_blank" / "run.json").read_text())
    assert run["protocol"]["images"] == "blank"
