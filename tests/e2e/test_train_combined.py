"""Answers that hold boxes and ``[SEG]``, learnt from traces with boxes alone, then GRPO with a verification turn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.runs import Run, check_on_policy, check_verdicts, train

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
BOTH = (
    "rollout.environment=combined_answers",
    "rollout.max_turns=1",
    "rollout.box_frames=3",
    "rollout.box_side=96",
    "rollout.box_units=thousandths",
    "rollout.eval.box_frames=3",
)
SFT = ("trainer.steps=220", "trainer.prompts_per_step=4", "trainer.micro_batch=4", "optim.lr=3e-3")
WEIGHTS = {
    **dict.fromkeys(("strict_format", "step_format", "interval", "keyframe_hit"), 0),
    **dict.fromkeys(("keyframe_vs_mask", "progressive_keyframe"), 0),
    **dict.fromkeys(("combined_format", "veason_keyframe", "veason_spatial", "mask_iou", "propagated_jf"), 1),
    "verification_change": 1,
}
GRPO = (
    *BOTH,
    "rollout.environment=verified_combined",
    "rollout.verify_frames=1",
    "rollout.box_no_target=true",
    "rollout.response_length=560",
    "rollout.engine.max_model_len=960",
    "rollout.group_size=4",
    "rollout.top_p=0.5",  # so short a cold start is well-formed in the middle of its distribution alone
    f"rewards.weights={json.dumps(WEIGHTS)}",
    "trainer.steps=2",
    "trainer.prompts_per_step=4",
    "optim.lr=1e-4",
    "optim.schedule=constant",
    "optim.warmup_ratio=0",
)


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_recipe_file: Path,
    tiny_settings: Callable[[str], list[str]],
    tiny_box_traces: Path,
) -> Run:
    """A cold start that mostly answers, and two steps after it."""
    folder = tmp_path_factory.mktemp("combined")
    cold, grpo = folder / "cold_start", folder / "grpo"
    traces = f"data.0.annotations={tiny_box_traces}"
    taught = train(cold, str(tiny_recipe_file), *tiny_settings("sft"), traces, f"output_dir={cold}", *BOTH, *SFT)
    assert taught.code == 0, taught.said[-3000:]
    places = [f"policy.path={cold / 'policy'}", f"output_dir={grpo}"]
    found = train(grpo, str(tiny_recipe_file), *tiny_settings("grpo"), *places, *GRPO)
    assert found.code == 0, found.said[-3000:]
    assert sorted(found.steps) == [1, 2] and found.left == []
    return found


def test_the_form_was_learnt_from_traces_with_boxes_alone(run: Run) -> None:
    """SAM 2 is prompted with what the answer holds: both, in most."""
    for step in (1, 2):
        drawn = [
            run.metric(step, f"answers/drawn_by_{who}")
            for who in ("both", "boxes_against_seg", "boxes", "seg", "nothing")
        ]
        assert sum(drawn) == pytest.approx(1.0)
        assert drawn[0] + drawn[1] > 0.5
        assert run.metric(step, "reward/combined_format") > 1.5


def test_masks_were_shown_and_judged(run: Run) -> None:
    for step in (1, 2):
        assert run.metric(step, "rollout/masks_shown") > 0
        assert run.metric(step, "rollout/drawn_state_gap_max") < 1e-5
        check_verdicts(run, step)


def test_the_first_step_is_exactly_on_policy_and_vllm_agrees(run: Run) -> None:
    check_on_policy(run, steps=(1, 2))
