"""Rollouts that run ahead of training, through the command line: on the actor's own process, then in one of theirs.

Each is interrupted while dialogues are under way; the first is continued. Ray, vLLM and FSDP start three times.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.e2e.runs import Run, press_ctrl_c, terminate_everybody, train
from verl_ext.cli.group import EXIT_INTERRUPTED
from verl_ext.policy.checkpoint import load_policy
from verl_ext.rollout_log import read_group, read_header, step_files
from verl_ext.run.supervise import STOP_FILE

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
SFT = ("trainer.steps=30", "trainer.prompts_per_step=4", "trainer.micro_batch=4", "optim.lr=3e-3")
GRPO = (
    "trainer.prompts_per_step=2",
    "rollout.group_size=2",
    "trainer.micro_batch=2",
    "optim.lr=1e-4",
    "objective.rollout_correction={level: token, threshold: 2.0}",
    "trainer.eval_every=2",
    "trainer.eval_samples=1",
    "trainer.eval_draws=1",
    "trainer.eval_greedy=false",
    "trainer.save_every=1",
    "trainer.keep_checkpoints=1",
)
AHEAD = ("trainer.ahead={batches: 1.5, max_staleness: 2}",)
EXPRESSIONS = 28
"""Of the tiny data: an epoch."""
APART = ("trainer.mode=separate_async", "trainer.rollout_processes=1", "trainer.mini_batch_prompts=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ahead")


@pytest.fixture(scope="module")
def command(
    folder: Path, tiny_recipe_file: Path, tiny_settings: Callable[[str], list[str]]
) -> Callable[[str], tuple[str, ...]]:
    """Of a run in the folder of that name, on a policy that has learnt the dialogue."""
    out = folder / "cold_start"
    cold_start = train(out, str(tiny_recipe_file), *tiny_settings("sft"), f"output_dir={out}", *SFT)
    assert cold_start.code == 0, cold_start.said[-3000:]

    def make(name: str) -> tuple[str, ...]:
        places = [f"policy.path={out / 'policy'}", f"output_dir={folder / name}"]
        return (str(tiny_recipe_file), *tiny_settings("grpo"), *places, *GRPO, *AHEAD)

    return make


@pytest.fixture(scope="module")
def interrupted(folder: Path, command: Callable[[str], tuple[str, ...]]) -> Run:
    hurt = {"interrupt_after_step": 3, "interrupt": terminate_everybody}
    return train(folder / "shared", *command("shared"), "trainer.mode=colocate_async", "trainer.steps=50", **hurt)


@pytest.fixture(scope="module")
def continued(folder: Path, command: Callable[[str], tuple[str, ...]], interrupted: Run) -> Run:
    more = ("trainer.mode=colocate_async", f"trainer.steps={interrupted.last + 2}", "--resume")
    return train(folder / "shared", *command("shared"), *more)


@pytest.fixture(scope="module")
def apart(folder: Path, command: Callable[[str], tuple[str, ...]]) -> Run:
    """Two updates a step, so that the second one's old log-probs are of weights that have to be fetched back."""
    more = (*APART, "trainer.steps=50")
    return train(folder / "apart", *command("apart"), *more, interrupt_after_step=2, interrupt=press_ctrl_c)


def test_a_run_that_is_interrupted_saves_its_step_and_leaves_nobody(interrupted: Run, apart: Run) -> None:
    for run in (interrupted, apart):
        assert run.code == EXIT_INTERRUPTED, run.said[-3000:]
        assert run.left == []
        assert sorted(run.steps) == list(range(1, run.last + 1)) and run.last < 50
        assert (run.out / "policy").resolve() == run.out / "checkpoints" / f"global_step_{run.last}" / "policy"
        assert not (run.out / STOP_FILE).exists() and not (run.out / "failed_dialogues.jsonl").exists()


def test_the_first_update_is_exactly_on_policy(interrupted: Run, apart: Run) -> None:
    """Old and new log-probs, mask terms included, are the same numbers, also where rollouts are older."""
    for name in ("actor/ppo_kl", "actor/pg_clipfrac", "actor/kl_loss"):
        assert interrupted.metric(1, name) == 0.0
    assert interrupted.metric(1, "rollout/staleness_max") == apart.metric(1, "rollout/staleness_max") == 0.0
    for step in interrupted.steps:  # one update a step: what is old is computed from the weights that it begins with
        assert interrupted.metric(step, "actor/ppo_kl") == 0.0
    assert apart.metric(1, "actor/ppo_kl") != 0.0  # the second update's
    assert sum(r.metric(s, "actor/seg/tokens") for r in (interrupted, apart) for s in r.steps) > 0


def test_rollouts_are_ahead_and_no_older_than_allowed(interrupted: Run, continued: Run, apart: Run) -> None:
    for run in (interrupted, continued, apart):
        lags = [run.metric(step, "rollout/staleness_max") for step in run.steps]
        assert 0.0 < max(lags) <= 2.0
        for step in run.steps:
            assert run.metric(step, "rollout/failed") == 0.0
            assert 0.0 < run.metric(step, "rollout_corr/rollout_is_mean") <= 2.0


def test_vllm_has_the_actors_weights_and_old_ones_come_back(interrupted: Run, apart: Run) -> None:
    """Each got them in its own way. In ``apart`` the second update of the step has changed weights before it, to which
    its old log-probs, those of the weights that rolled out, owe nothing."""
    for run in (interrupted, apart):
        assert run.metric(1, "training/rollout_probs_diff_max") < 1e-4
    later = [r.metric(s, "training/rollout_probs_diff_max") for r in (interrupted, apart) for s in r.steps]
    assert max(later) > 1e-4  # where weights are older, it is seen


def test_resume_takes_up_the_dialogues_that_were_under_way(interrupted: Run, continued: Run) -> None:
    """No step is done again, and every prompt is learnt from once: those of the two runs are the data's first."""
    assert continued.code == 0, continued.said[-3000:]
    assert continued.last == interrupted.last + 2 and continued.left == []
    assert all(continued.steps[n] == interrupted.steps[n] for n in interrupted.steps)
    old, new = (continued.out / "checkpoints" / f"global_step_{interrupted.last}", continued.out / "policy")
    assert not old.exists()
    before, after = load_policy(continued.out.parent / "cold_start" / "policy"), load_policy(new)
    assert not torch.equal(before.lm_head.weight, after.lm_head.weight)
    seen = []
    for file in step_files(continued.out):
        header = read_header(file, continued.out)
        groups = [read_group(file, header, i, continued.out) for i in range(len(header["groups"]))]
        assert len(groups) == 2 and all(len(g.rollouts) == 2 for g in groups)
        assert all(0 <= file.step - 1 - r.versions[0] <= 2 for g in groups for r in g.rollouts)
        seen += [g.sample for g in groups]
    assert [f.step for f in step_files(continued.out)] == sorted(continued.steps)
    assert len(seen) == 2 * continued.last
    given_out = torch.load(new.resolve().parent / "data.pt", weights_only=False)["_num_yielded"]
    assert given_out == 2 * continued.last  # none was given out in vain, the last steps' neither
    assert len({*seen[:EXPRESSIONS]}) == len(seen[:EXPRESSIONS])


def test_held_out_dialogues_go_beside_those_under_way(interrupted: Run, apart: Run) -> None:
    for run in (interrupted, apart):
        assert "val/reward/mean" in run.steps[2] and run.metric(2, "val/failed") == 0.0
