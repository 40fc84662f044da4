"""The released way through a step, on the tiny policy: every phase runs and is timed, and its first ratio is 1."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import grpo_step_released_way as released
from verl_ext.recipe import Recipe, save_resolved
from verl_ext.run.sources import load_samples

HERE = "tests.benchmarks.test_grpo_step_released_way"


@pytest.mark.parametrize("check", ["a_step_is_timed_and_scaled_up", "it_trains_on_what_it_generated"])
def test_the_released_way(check: str, tiny_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    """In a process of its own: verl, once a test has loaded it, has replaced the forward that ``generate`` calls."""
    save_resolved(tiny_recipe("grpo"), tmp_path / "recipe.yaml")
    code = (
        f"import {HERE} as here, verl_ext.recipe as r; here.{check}(r.load_resolved({str(tmp_path / 'recipe.yaml')!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-3000:]


def a_step_is_timed_and_scaled_up(recipe: Recipe) -> None:
    found = released.measure(recipe, groups=1, sequences=2, reply_tokens=6)
    seconds = found["step_seconds"]
    assert set(seconds) == {*released.PHASES, "step"} and all(seconds[p] > 0 for p in ("rollout", "update"))
    assert seconds["step"] == pytest.approx(sum(seconds[p] for p in released.PHASES), abs=1e-3)
    assert found["timed"] == {"generate_calls": 1, "sequences": 2, "scaled_to_rollouts": 8}
    assert found["reply_tokens"] == 6 and found["prompt_tokens"] > 50


def it_trains_on_what_it_generated(recipe: Recipe) -> None:
    """Rollouts of the length of ours, no forbidden token, a first ratio of 1, and an update that reaches everything."""
    step = released.ReleasedStep(recipe, None, rollout_tokens=300)
    rollouts = step.rollout(load_samples(recipe)[0])
    assert len(rollouts) == 4
    ids = [r.inputs["input_ids"][0] for r in rollouts]
    assert {len(x) for x in ids} == {300} and len({tuple(x.tolist()) for x in ids}) > 1
    one = rollouts[0]
    one.inputs["input_ids"][0, -2] = step.chat.seg  # a mask to draw
    assert not set(ids[1][one.prompt :].tolist()) & step.chat.forbidden
    step.seg_states(one)
    step.pool(one)
    step.reference_pass(one)
    assert one.old is not None and torch.allclose(one.old, one.reference, atol=1e-5), "one policy, before an update"
    now, masks = step._pass(step.policy.train(), one, one.frames)
    assert masks is not None and len(masks) == len(one.frames) * int(step._seg(one).sum()) > 0
    assert torch.allclose(now, one.old, atol=1e-5)
    before = {n: p.detach().clone() for n, p in step.policy.named_parameters()}
    step.update(one, sequences=8)
    step.optimise()
    moved = {n for n, p in step.policy.named_parameters() if not torch.equal(before[n], p)}
    parts = ("model.visual", "model.language_model", "text_hidden_fcs", "grounding_encoder.sam2_model.sam_mask_decoder")
    assert all(any(n.startswith(part) for n in moved) for part in parts)


def test_ours_is_read_from_either_form_of_its_figures(tmp_path: Path) -> None:
    def read(figures: dict[str, Any]) -> dict[str, Any]:
        (tmp_path / "ours.json").write_text(json.dumps(figures))
        return released.our_step(SimpleNamespace(ours=str(tmp_path / "ours.json")), tmp_path)  # type: ignore[arg-type]

    plain = {"rollouts_per_step": 48, "tokens_per_step": 480, "step_seconds": {"step": 50.0}}
    assert read(plain)["step_seconds"]["step"] == 50.0
    arms = {"none": {"step_seconds": {"step": 50.0}}, "group": {"step_seconds": {"step": 9.0}, "rollouts_per_step": 48}}
    assert read({"arms": arms, "date": "x"})["step_seconds"]["step"] == 9.0
