"""One real run through the command line: supervised, then reinforced, hurt, interrupted and continued.

Ray, vLLM, FSDP and the segmenter pool start twice, so everything is asserted on two runs.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.e2e.runs import VIDEOSEG, Run, press_ctrl_c, terminate_everybody, train
from verl_ext.cli.group import EXIT_INTERRUPTED
from verl_ext.policy.checkpoint import HEAD_FOLDER, load_policy
from verl_ext.run.supervise import STOP_FILE, scalar

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
SFT = ("trainer.steps=30", "trainer.prompts_per_step=4", "trainer.micro_batch=4", "optim.lr=3e-3")
GRPO = (
    "trainer.prompts_per_step=2",
    "rollout.group_size=2",
    "trainer.micro_batch=2",
    "optim.lr=1e-4",
    "trainer.eval_every=100",  # before training, then never again
    "trainer.eval_samples=2",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("train")


@pytest.fixture(scope="module")
def cold_start(folder: Path, tiny_recipe_file: Path, tiny_settings: Callable[[str], list[str]]) -> Run:
    out = folder / "cold_start"
    return train(out, str(tiny_recipe_file), *tiny_settings("sft"), f"output_dir={out}", *SFT)


@pytest.fixture(scope="module")
def command(
    folder: Path, cold_start: Run, tiny_recipe_file: Path, tiny_settings: Callable[[str], list[str]]
) -> tuple[str, ...]:
    places = [f"policy.path={cold_start.out / 'policy'}", f"output_dir={folder / 'grpo'}"]
    return (str(tiny_recipe_file), *tiny_settings("grpo"), *places, *GRPO)


@pytest.fixture(scope="module")
def interrupted(folder: Path, command: tuple[str, ...]) -> Run:
    more = ("trainer.steps=50", "trainer.save_every=1", "trainer.keep_checkpoints=1")
    hurt = {"kill_segmenter_after_step": 1, "interrupt_after_step": 3, "interrupt": terminate_everybody}
    return train(folder / "grpo", *command, *more, **hurt)


@pytest.fixture(scope="module")
def continued(folder: Path, command: tuple[str, ...], interrupted: Run) -> Run:
    return train(folder / "grpo", *command, f"trainer.steps={interrupted.last + 1}", "--resume")


def test_supervised_training_writes_a_policy_that_differs(cold_start: Run, tiny_policy: Path) -> None:
    assert cold_start.code == 0, cold_start.said[-3000:]
    assert sorted(cold_start.steps) == list(range(1, 31))
    assert cold_start.metric(30, "train/loss") < cold_start.metric(1, "train/loss")
    assert str(cold_start.out / "policy") in cold_start.said.replace("\n", "")
    before, after = load_policy(tiny_policy).state_dict(), load_policy(cold_start.out / "policy").state_dict()
    assert before.keys() == after.keys()
    assert not before["lm_head.weight"].equal(after["lm_head.weight"])
    assert cold_start.left == []


def test_the_first_step_is_exactly_on_policy(interrupted: Run) -> None:
    """Old and new log-probs, mask terms included, are the same numbers; actor and reference are the same model."""
    assert interrupted.metric(1, "actor/ppo_kl") == 0.0
    assert interrupted.metric(1, "actor/pg_clipfrac") == 0.0
    assert interrupted.metric(1, "actor/kl_loss") == 0.0
    assert interrupted.metric(2, "actor/kl_loss") != 0.0


def test_vllm_and_actor_agree_also_after_a_weight_sync(interrupted: Run) -> None:
    for step in (1, 2):
        assert interrupted.metric(step, "training/rollout_probs_diff_max") < 1e-4


def test_masks_were_decoded_and_every_reward_is_logged(interrupted: Run) -> None:
    assert sum(interrupted.metric(s, "actor/seg/tokens") for s in interrupted.steps) > 0
    for name in ("mean", "strict_format", "mask_iou", "keyframe_hit"):
        assert f"reward/{name}" in interrupted.steps[1]
    stops = [v for k, v in interrupted.steps[1].items() if k.startswith("stop/")]
    assert sum(scalar(v) or 0.0 for v in stops) == pytest.approx(1.0)


def test_a_killed_pool_worker_is_replaced_and_its_work_done_again(interrupted: Run) -> None:
    assert len(interrupted.segmenters) == 2, interrupted.segmenters
    assert interrupted.metric(1, "pool/restarts") == 0.0
    assert interrupted.metric(3, "pool/restarts") == 1.0
    for step in interrupted.steps:
        assert interrupted.metric(step, "rollout/failed") == 0.0
        assert -10.0 < interrupted.metric(step, "reward/mean") < 10.0


def test_progress_is_told_in_lines(cold_start: Run, interrupted: Run) -> None:
    assert "step 30/30 | loss" in cold_start.said and "starting processes" in cold_start.said
    assert "/50 | reward" in interrupted.said and "saving and stopping after this step" in interrupted.said


def test_held_out_clips_are_evaluated_before_training(interrupted: Run) -> None:
    rows = [json.loads(line) for line in (interrupted.out / "held_out.jsonl").read_text().splitlines()]
    assert rows[0]["step"] == 0
    assert 0.0 <= rows[0]["val/jf"] <= 100.0 and "val/reward/mean" in rows[0]


@pytest.mark.parametrize("interrupt", [press_ctrl_c, terminate_everybody])
def test_a_supervised_run_that_is_asked_to_stop_saves_its_step(
    folder: Path,
    tiny_recipe_file: Path,
    tiny_settings: Callable[[str], list[str]],
    interrupt: Callable[[psutil.Popen], None],
) -> None:
    out = folder / interrupt.__name__
    places = (str(tiny_recipe_file), *tiny_settings("sft"), f"output_dir={out}", *SFT, "trainer.steps=400")
    asked = train(out, *places, interrupt_after_step=2, interrupt=interrupt)
    assert asked.code == EXIT_INTERRUPTED, asked.said[-3000:]
    assert asked.left == [] and 2 <= asked.last < 400
    assert (out / "policy").resolve() == out / "checkpoints" / f"global_step_{asked.last}" / "policy"


def test_term_to_every_process_leaves_a_checkpoint_and_none_of_them(interrupted: Run) -> None:
    assert interrupted.code == EXIT_INTERRUPTED, interrupted.said[-3000:]
    assert "--resume" in interrupted.said
    assert interrupted.left == []
    assert sorted(interrupted.steps) == list(range(1, interrupted.last + 1)) and 3 <= interrupted.last <= 6
    checkpoint = interrupted.out / "checkpoints" / f"global_step_{interrupted.last}"
    assert (checkpoint / "policy" / HEAD_FOLDER / "model.safetensors").is_file()
    assert (checkpoint / "actor").is_dir()
    assert not (interrupted.out / STOP_FILE).exists()
    assert [p.name for p in (interrupted.out / "checkpoints").glob("global_step_*")] == [checkpoint.name]
    assert (interrupted.out / "policy").resolve() == checkpoint / "policy"


def test_resume_goes_on_where_it_stopped(interrupted: Run, continued: Run) -> None:
    assert continued.code == 0, continued.said[-3000:]
    assert continued.last == interrupted.last + 1
    assert all(continued.steps[n] == interrupted.steps[n] for n in interrupted.steps)  # none was done again
    old, new = (continued.out / "checkpoints" / f"global_step_{r.last}" / "policy" for r in (interrupted, continued))
    assert str(new) in continued.said.replace("\n", "") and (continued.out / "policy").resolve() == new
    before, after = load_policy(old).state_dict(), load_policy(new).state_dict()
    assert not before["lm_head.weight"].equal(after["lm_head.weight"])
    assert continued.left == []


def test_every_step_left_its_rollouts_with_masks_and_rewards(continued: Run) -> None:
    """Of the steps before and after the resume, once each; the advantages of a group add up to nothing."""
    from verl_ext.rollout_log import read_group, read_header, step_files

    files = step_files(continued.out)
    assert [f.step for f in files] == sorted(continued.steps)
    for file in files:
        header = read_header(file, continued.out)
        groups = [read_group(file, header, i, continued.out) for i in range(len(header["groups"]))]
        assert groups and all(len(g.rollouts) > 1 for g in groups)
        for group in groups:
            assert abs(sum(r.advantage for r in group.rollouts)) < 1e-3
            for rollout in group.rollouts:
                drawn = [bool(turn.masks) for turn in rollout.turns]
                assert drawn == ["[SEG]" in turn.text for turn in rollout.turns]
                assert rollout.log_probs.tokens > 0 and rollout.versions == (file.step - 1, file.step - 1)


def test_a_run_is_not_overwritten_without_being_asked(command: tuple[str, ...], continued: Run) -> None:
    again = subprocess.run([VIDEOSEG, "train", *command], capture_output=True, text=True, timeout=120)
    assert again.returncode == 2
    assert "--resume" in again.stderr and str(continued.out) in again.stderr.replace("\n", "")
