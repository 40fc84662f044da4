"""Veason-R1 with a real tiny Qwen2.5-VL in the hub's layout (shards, tied, spare rows): GRPO on two processes, hurt
by a clip that cannot be read, interrupted and continued.

Ray, vLLM, FSDP and the segmenter pool start twice, so everything is asserted on two runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest

from data_construction.cot.seed import SeedSettings
from data_construction.cot.seed_by_rule import write_seed_traces
from data_construction.readers import open_dataset
from data_construction.synthetic import make_synthetic
from tests.box_policies import published, teach
from tests.conftest import BOX_FRAMES, BOX_SIDE
from tests.e2e.runs import Run, train
from verl_ext.cli.group import EXIT_INTERRUPTED
from verl_ext.policy.checkpoint import load_policy
from verl_ext.recipe import Recipe, save_resolved
from verl_ext.recipe.context import RECIPE_ENV

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
CLIPS = 8
GRPO = (
    "trainer.actor_processes=2",
    "trainer.prompts_per_step=4",  # an epoch has two steps, and one dialogue in four may fail
    "rollout.group_size=2",
    "trainer.micro_batch=1",
    "policy.gradient_checkpointing=true",
    "optim.lr=1e-4",
    "trainer.eval_every=100",  # before training, then never again
    "trainer.eval_samples=1",  # does not divide by two processes: copies without pictures fill the batch
    "trainer.save_every=1",
    "trainer.keep_checkpoints=1",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("boxes")


@pytest.fixture(scope="module")
def command(
    folder: Path,
    tiny_box_recipe: Callable[..., Recipe],
    tiny_box_recipe_file: Path,
    tiny_box_settings: Callable[..., list[str]],
) -> tuple[str, ...]:
    """One expression a clip; a policy that was taught their seed traces; then one clip is damaged."""
    root = folder / "data"
    clips = {"train": CLIPS, "valid": 1}
    make_synthetic(root, clips, seed=5, frames=(12, 12), size=48, kinds={"attribute": 1.0})
    data = open_dataset("revos", root, "train")
    write_seed_traces(data, folder / "traces.jsonl", SeedSettings(frames=BOX_FRAMES, side=BOX_SIDE))
    places = ["data.0.kinds=[attribute]", f"data.0.root={root}"]
    traces = f"data.0.annotations={folder / 'traces.jsonl'}"
    recipe = tiny_box_recipe("sft", *places, traces, policy="published")
    save_resolved(recipe, folder / "taught.yaml")
    with patch.dict(os.environ, {RECIPE_ENV: str(folder / "taught.yaml")}):
        policy = published(teach(recipe, folder / "taught"), folder / "published")
    for frame in data.clip(data.clips()[0]).frames:
        Path(frame).write_bytes(b"no picture")
    places += [f"val.0.root={root}", f"policy.path={policy}", f"output_dir={folder / 'grpo'}"]
    return (str(tiny_box_recipe_file), *tiny_box_settings("grpo"), *places, *GRPO)


@pytest.fixture(scope="module")
def interrupted(folder: Path, command: tuple[str, ...]) -> Run:
    more = ("trainer.steps=50", "policy.packing=none")
    return train(folder / "grpo", *command, *more, interrupt_after_step=2)


@pytest.fixture(scope="module")
def continued(folder: Path, command: tuple[str, ...], interrupted: Run) -> Run:
    more = (f"trainer.steps={interrupted.last + 1}", "policy.packing=group", "--resume")
    return train(folder / "grpo", *command, *more)


def test_a_clip_that_cannot_be_read_costs_its_own_dialogues_alone(interrupted: Run) -> None:
    """Copies without pictures take their place, one a micro-batch."""
    assert interrupted.code == EXIT_INTERRUPTED, interrupted.said[-3000:]
    failed = [interrupted.metric(step, "rollout/failed") for step in (1, 2)]
    assert sorted(failed) == [0.0, 2.0]
    rows = [json.loads(line) for line in (interrupted.out / "failed_dialogues.jsonl").read_text().splitlines()]
    assert {row["sample"].split("/")[0] for row in rows[:2]} and "00000" in rows[0]["error"]


def test_the_first_step_is_exactly_on_policy_and_vllm_agrees(interrupted: Run) -> None:
    for name in ("actor/ppo_kl", "actor/pg_clipfrac", "actor/kl_loss"):
        assert interrupted.metric(1, name) == 0.0
    for step in (1, 2):
        assert interrupted.metric(step, "training/rollout_probs_diff_max") < 1e-4


def test_all_four_rewards_are_given_and_some_replies_earn_them(interrupted: Run) -> None:
    for name in ("mean", "veason_format", "veason_keyframe", "veason_spatial", "veason_consistency"):
        assert f"reward/{name}" in interrupted.steps[1]
    steps = interrupted.steps
    assert max(interrupted.metric(step, "reward/veason_format") for step in steps) > 0
    assert max(interrupted.metric(step, "actor/grad_norm") for step in steps) > 0


def test_held_out_clips_are_evaluated_with_what_fills_their_batch(interrupted: Run) -> None:
    (row, *_) = [json.loads(line) for line in (interrupted.out / "held_out.jsonl").read_text().splitlines()]
    assert row["step"] == 0 and 0.0 <= row["val/jf"] <= 100.0 and row["val/failed"] == 0.0


def test_a_box_run_says_nothing_of_seg(interrupted: Run) -> None:
    assert "/50 | reward" in interrupted.said
    assert "[SEG]" not in interrupted.said


def test_resume_goes_on_with_the_shipped_packing(interrupted: Run, continued: Run) -> None:
    assert continued.code == 0, continued.said[-3000:]
    assert continued.last == interrupted.last + 1
    assert all(continued.steps[n] == interrupted.steps[n] for n in interrupted.steps)  # none was done again
    old, new = (continued.out / "checkpoints" / f"global_step_{r.last}" / "policy" for r in (interrupted, continued))
    assert (continued.out / "policy").resolve() == new and not old.exists()
    before, after = load_policy(continued.out.parent / "published"), load_policy(new)
    assert after.config.model_type == "qwen2_5_vl"
    assert after.lm_head.weight.data_ptr() == after.model.language_model.embed_tokens.weight.data_ptr()
    assert not before.lm_head.weight.equal(after.lm_head.weight)
    assert interrupted.left == continued.left == []
