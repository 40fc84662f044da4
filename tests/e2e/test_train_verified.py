"""GRPO in which the policy sees the masks of its own ``[SEG]`` before it is done: through ``videoseg train``."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from rollout.types import Action
from tests.e2e.runs import Run, check_on_policy, check_verdicts, train
from verl_ext.policy.checkpoint import load_head_state

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
SFT = ("trainer.steps=90", "trainer.prompts_per_step=4", "trainer.micro_batch=4", "optim.lr=3e-3")
GRPO = (
    "rollout.environment=verified_masks",
    "rollout.verify_frames=1",
    "rollout.response_length=560",
    "rollout.engine.max_model_len=960",
    "rollout.group_size=4",
    "rollout.top_p=0.5",  # so short a cold start is well-formed in the middle of its distribution alone
    "rewards.weights.propagated_jf=1",
    "rewards.weights.verification_change=1",
    "trainer.steps=2",
    "trainer.prompts_per_step=4",
    "trainer.micro_batch=2",
    "optim.lr=1e-4",
    "optim.projection_lr=1e-2",  # so far in one step that a mask drawn by the projection before it would be noticed
    "optim.schedule=constant",
    "optim.warmup_ratio=0",
)


@pytest.fixture(scope="module")
def policy(
    tmp_path_factory: pytest.TempPathFactory, tiny_recipe_file: Path, tiny_settings: Callable[[str], list[str]]
) -> Path:
    """One that mostly answers."""
    out = tmp_path_factory.mktemp("verified") / "cold_start"
    run = train(out, str(tiny_recipe_file), *tiny_settings("sft"), f"output_dir={out}", *SFT)
    assert run.code == 0, run.said[-3000:]
    return out / "policy"


@pytest.fixture(scope="module")
def run(policy: Path, tiny_recipe_file: Path, tiny_settings: Callable[[str], list[str]]) -> Run:
    out = policy.parents[1] / "grpo"
    places = [f"policy.path={policy}", f"output_dir={out}"]
    found = train(out, str(tiny_recipe_file), *tiny_settings("grpo"), *places, *GRPO)
    assert found.code == 0, found.said[-3000:]
    assert sorted(found.steps) == [1, 2] and found.left == []
    return found


def test_dialogues_were_shown_masks_of_the_states_that_are_scored(run: Run, policy: Path) -> None:
    """By the newest projection, too: step 2's states are far from what the one before would make of them."""
    for step in (1, 2):
        assert run.metric(step, "rollout/masks_shown") > 0
        assert run.metric(step, "rollout/failed") == 0.0
        assert run.metric(step, "rollout/drawn_state_gap_max") < 1e-5
    before, after = load_head_state(policy), load_head_state(run.out / "policy")
    name = "text_hidden_fcs.2.weight"
    assert float(torch.dist(before[name], after[name]) / before[name].norm()) > 1e-3


def test_verdicts_are_given_and_rewarded(run: Run) -> None:
    for step in (1, 2):
        check_verdicts(run, step)


def test_the_first_step_is_exactly_on_policy_and_vllm_agrees(run: Run) -> None:
    """Also of the turn whose pictures hold masks: old and new log-probs, and the actor's pass over what vLLM saw."""
    check_on_policy(run, steps=(1, 2))


def test_kept_rollouts_show_a_turn_with_the_policys_own_masks(run: Run) -> None:
    from verl_ext.rollout_log import read_group, read_header, step_files

    verified = 0
    for file in step_files(run.out):
        header = read_header(file, run.out)
        for i in range(len(header["groups"])):
            for rollout in read_group(file, header, i, run.out).rollouts:
                for answer, verdict in pairwise(rollout.turns):
                    if answer.action is Action.ANSWER:
                        verified += 1
                        assert verdict.shown and bool(answer.masks) == ("[SEG]" in answer.text)
    assert verified > 0
