"""The trainer's saving, its continuing, and where it ends, without workers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from rollout.errors import DataError, WorkerError
from tests.verl_ext.reinforce.test_trainer import trainer_of
from verl_ext.recipe import Recipe
from verl_ext.run.checkpoints import TRACKER
from verl_ext.run.run_files import HELD_OUT, STOP_FILE, TOTAL_FILE, run_finished


def config_of(out: Path) -> Any:
    """The part of verl's configuration that the trainer reads or writes."""
    trainer = {"val_before_train": True, "default_local_dir": str(out / "checkpoints")}
    actor = {"optim": {"total_training_steps": -1}}
    return OmegaConf.create({"trainer": trainer, "actor_rollout_ref": {"actor": actor}})


@pytest.mark.parametrize(
    ("step", "written", "evaluates"),
    [
        (0, (), True),
        (3, (0, 3), False),  # a continued run does not evaluate its start again
        (3, (0,), True),  # died between the save and the evaluation
        (4, (0, 3), False),  # no step to evaluate at
        (9, (0, 3, 6), True),  # the last one always is
        (9, (0, 9), False),
    ],
)
def test_evaluated_before_training_is_what_is_due_and_missing(
    step: int,
    written: tuple[int, ...],
    evaluates: bool,
    tiny_recipe: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(PPOTrainerSync, "on_init_end", lambda self: None)
    for every, expected in ((3, evaluates), (0, False)):
        trainer = trainer_of(tiny_recipe("grpo", f"trainer.eval_every={every}"), None, tmp_path)  # 9 steps
        trainer.config = config_of(tmp_path)
        trainer.global_steps = step
        monkeypatch.setattr(trainer, "_export_policy", lambda: None)
        (tmp_path / HELD_OUT).write_text("".join(f'{{"step": {n}}}\n' for n in written))
        trainer.on_init_end()
        assert trainer.config.trainer.val_before_train is expected


@pytest.mark.parametrize(("reached", "stop"), [(9, False), (5, True), (5, False)])
def test_how_it_ended_is_written_by_the_run_itself(
    reached: int, stop: bool, tiny_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(tiny_recipe("grpo"), None, tmp_path)
    monkeypatch.setattr(PPOTrainerSync, "on_step_end", lambda self: None)
    monkeypatch.setattr(trainer, "_save_checkpoint", lambda: None)

    def train(self: Any, agent_loop_manager: Any) -> None:
        self.global_steps = reached
        if stop:
            (tmp_path / STOP_FILE).touch()
        self.on_step_end()
        self.global_steps += 1

    monkeypatch.setattr(PPOTrainerSync, "fit", train)
    if reached < 9 and not stop:
        with pytest.raises(WorkerError, match=r"ended after step 5 of 9.*--resume"):
            trainer.fit(None)
    else:
        trainer.fit(None)
        assert run_finished(tmp_path) is not stop


@pytest.mark.parametrize("there", [False, True])
def test_a_policy_that_was_not_written_with_its_checkpoint_is_written_on_resume(
    there: bool, tiny_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PPOTrainerSync, "on_init_end", lambda self: None)
    trainer = trainer_of(tiny_recipe("grpo"), None, tmp_path)
    trainer.config = config_of(tmp_path)

    def export(folder: str) -> None:
        Path(folder).mkdir(parents=True)
        (Path(folder) / "config.json").write_text("written now")

    trainer.actor_rollout_wg = SimpleNamespace(decoder_state=lambda: [{}], export_policy=export)
    policy = tmp_path / "checkpoints" / "global_step_2" / "policy"
    if there:
        policy.mkdir(parents=True)
        (policy / "config.json").write_text("old")
    trainer.on_init_end()
    assert (policy / "config.json").read_text() == ("old" if there else "written now")
    if not there:
        assert (tmp_path / "policy").resolve() == policy


def test_saving_keeps_the_newest_checkpoints_with_their_policies(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(tiny_recipe("grpo", "trainer.keep_checkpoints=2"), None, tmp_path)
    trainer.config = config_of(tmp_path)
    saved: list[int] = []

    def save(self: Any) -> None:
        saved.append(self.global_steps)
        (tmp_path / "checkpoints" / f"global_step_{self.global_steps}").mkdir(parents=True)
        (tmp_path / "checkpoints" / TRACKER).write_text(str(self.global_steps))

    monkeypatch.setattr(PPOTrainerSync, "_save_checkpoint", save)

    def export(folder: str) -> None:
        Path(folder).mkdir(parents=True)
        (Path(folder) / "config.json").touch()

    trainer.actor_rollout_wg = SimpleNamespace(export_policy=export)
    for step in (9, 10, 11):
        trainer.global_steps = step
        trainer._save_checkpoint()
        trainer._save_checkpoint()  # asked to stop in a step that is saved anyway
        assert (tmp_path / "policy").resolve().parent.name == f"global_step_{step}"
    assert saved == [9, 10, 11]
    assert sorted(p.name for p in (tmp_path / "checkpoints").glob("g*")) == ["global_step_10", "global_step_11"]


@pytest.mark.parametrize(("steps", "epochs", "expected"), [(9, 100, 9), (1000, 2, 6)])
def test_a_run_ends_with_its_last_epoch_at_the_latest(
    steps: int,
    epochs: int,
    expected: int,
    tiny_recipe: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """verl would leave its loop without saving: what was learnt since the last checkpoint would be lost."""
    trainer = trainer_of(tiny_recipe("grpo", f"trainer.epochs={epochs}"), None, tmp_path)
    trainer.config = config_of(tmp_path)

    def loaded(self: Any) -> None:
        self.total_training_steps, self.steps_per_epoch, self.train_dataset = steps, 3, [0] * 13

    monkeypatch.setattr(PPOTrainerSync, "_init_dataloader", loaded)
    trainer._init_dataloader()
    assert trainer.total_training_steps == trainer.config.actor_rollout_ref.actor.optim.total_training_steps == expected
    assert json.loads((tmp_path / TOTAL_FILE).read_text()) == {"total": expected}


def test_less_data_than_one_step_is_refused(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(tiny_recipe("grpo"), None, tmp_path)

    def loaded(self: Any) -> None:
        self.total_training_steps, self.steps_per_epoch, self.train_dataset = 9, 0, [0] * 3

    monkeypatch.setattr(PPOTrainerSync, "_init_dataloader", loaded)
    with pytest.raises(DataError, match=r"data: 3 expressions do not fill one step of trainer.prompts_per_step 4"):
        trainer._init_dataloader()
