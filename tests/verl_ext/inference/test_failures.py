"""Dialogues that raised: counted, named, and the end of the run where too many did."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from rollout.errors import DataError, WorkerError
from rollout.types import Sample
from tests.verl_ext.reinforce.test_trainer import trainer_of
from verl_ext.inference.failures import check_failed, remembered
from verl_ext.recipe import Recipe
from verl_ext.run.run_files import FAILED_DIALOGUES


@remembered
async def run(loop: Any, sampling_params: Any, **row: Any) -> str:
    if row["broken"]:
        raise DataError("clip a, frame 3, file x.jpg: cannot be read")
    return "answered"


@pytest.fixture
def step_seven(
    tmp_path: Path, activate: Callable[[Recipe], Recipe], tiny_recipe: Callable[..., Recipe], sample: Sample
) -> Path:
    """A run's folder, in which one dialogue of step 7 has failed."""
    activate(tiny_recipe("grpo", f"output_dir={tmp_path}"))
    row = {"sample": sample.to_dict(), "global_steps": 7}
    assert asyncio.run(run(None, {}, broken=False, **row)) == "answered"
    assert not (tmp_path / FAILED_DIALOGUES).exists()
    with pytest.raises(DataError, match="frame 3"):
        asyncio.run(run(None, {}, broken=True, **row))
    return tmp_path


def test_what_a_dialogue_raised_is_written_down_with_its_name(step_seven: Path, sample: Sample) -> None:
    (row,) = [json.loads(line) for line in (step_seven / FAILED_DIALOGUES).read_text().splitlines()]
    assert row == {"step": 7, "sample": sample.id, "error": "DataError: clip a, frame 3, file x.jpg: cannot be read"}


def test_a_few_are_counted_and_many_end_the_run(step_seven: Path, sample: Sample) -> None:
    assert check_failed(step_seven, 7, 8, 8) == 0
    assert check_failed(step_seven, 7, 8, 6) == 2  # a quarter
    words = rf"step 7: 3 of 8 dialogues failed; the first: {sample.id}: .*frame 3.*--resume"
    with pytest.raises(WorkerError, match=words):
        check_failed(step_seven, 7, 8, 5)
    with pytest.raises(WorkerError, match="step 8: 8 of 8 dialogues failed; their errors stand in the log"):
        check_failed(step_seven, 8, 8, 0)


def test_a_torn_line_is_passed_over(step_seven: Path) -> None:
    file = step_seven / FAILED_DIALOGUES
    file.write_text('{"step": 7, "sam' + "\n" + file.read_text())
    with pytest.raises(WorkerError, match=r"the first: .*frame 3"):
        check_failed(step_seven, 7, 2, 0)


def test_a_dead_engine_ends_the_step_with_its_own_error(
    step_seven: Path, tiny_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """verl says "no materializable trajectories", or fails in an assertion about balancing."""
    trainer = trainer_of(tiny_recipe("grpo"), None, step_seven)  # 4 prompts x 2
    trainer.global_steps = 7

    def sample_nothing(self: Any, *_: Any) -> None:
        raise RuntimeError("Sync replay buffer selected terminal groups with no materializable trajectories.")

    monkeypatch.setattr(PPOTrainerSync, "_step_once", sample_nothing)
    with pytest.raises(WorkerError, match=r"8 of 8 dialogues failed; the first: .*frame 3"):
        trainer._step_once({}, {}, 4)

    def other(self: Any, *_: Any) -> None:
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(PPOTrainerSync, "_step_once", other)
    with pytest.raises(RuntimeError, match="CUDA error"):
        trainer._step_once({}, {}, 4)


@pytest.mark.parametrize(("mode", "told"), [("sync", "their errors stand in the log"), ("colocate_async", ".*frame 3")])
def test_where_rollouts_run_ahead_errors_are_those_of_steps_before(
    step_seven: Path, tiny_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, mode: str, told: str
) -> None:
    """A dialogue of step 8 may have begun, and failed, in step 7."""
    trainer = trainer_of(tiny_recipe("grpo", f"trainer.mode={mode}"), None, step_seven)
    trainer.global_steps = 8
    monkeypatch.setattr(PPOTrainerSync, "_balance_batch", lambda self, batch, metrics: batch)
    with pytest.raises(WorkerError, match=f"step 8: 5 of 8 dialogues failed; {told}"):
        trainer._balance_batch(SimpleNamespace(keys=["a_0_0"] * 3, tags=[{}] * 3), {})


def test_a_thin_batch_is_noticed_before_it_is_filled_up(
    step_seven: Path, tiny_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(tiny_recipe("grpo", "policy.packing=packed"), None, step_seven)
    trainer.global_steps = 7
    monkeypatch.setattr(PPOTrainerSync, "_balance_batch", lambda self, batch, metrics: batch)

    def batch(n: int) -> Any:
        return SimpleNamespace(keys=[f"a_{i}_0" for i in range(n)], tags=[{}] * n)

    metrics: dict[str, Any] = {}
    trainer._balance_batch(batch(7), metrics)
    assert metrics == {"rollout/failed": 1.0}
    with pytest.raises(WorkerError, match="5 of 8 dialogues failed"):
        trainer._balance_batch(batch(3), {})
    trainer._validating = True
    trainer._balance_batch(batch(3), {})  # held-out rows are counted by their own number
