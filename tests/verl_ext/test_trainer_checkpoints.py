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

from rollout.errors import DataError
from tests.verl_ext.test_trainer import trainer_of
from verl_ext.recipe import Recipe
from verl_ext.run_files import TOTAL_FILE
from verl_ext.trainer import HELD_OUT


def config_of(out: Path) -> Any:
    """The part of verl's configuration that the trainer reads or writes."""
    trainer = {"val_before_train": True, "default_local_dir": str(out / "checkpoints")}
    actor = {"optim": {"total_training_steps": -1}}
    return OmegaConf.create({"trainer": trainer, "actor_rollout_ref": {"actor": actor}})


@pytest.mark.parametrize(("steps_done", "evaluates"), [(0, True), (3, False)])
def test_a_continued_run_does_not_evaluate_its_start_again(
    tiny_recipe: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    steps_done: int,
    evaluates: bool,
) -> None:
    monkeypatch.setattr(PPOTrainerSync, "on_init_end", lambda self: None)
    trainer = trainer_of(tiny_recipe("grpo"), None, tmp_path)
    trainer.config = config_of(tmp_path)
    trainer.global_steps = steps_done
    monkeypatch.setattr(trainer, "_export_policy", lambda: None)
    (tmp_path / HELD_OUT).write_text("".join(f'{{"step": {n}}}\n' for n in (0, 3, 6)))
    trainer.on_init_end()
    assert trainer.config.trainer.val_before_train is evaluates
    kept = [json.loads(line)["step"] for line in (tmp_path / HELD_OUT).read_text().splitlines()]
    assert kept == ([0, 3, 6] if evaluates else [0, 3])  # a continued run evaluates later steps again


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
    monkeypatch.setattr(PPOTrainerSync, "_save_checkpoint", lambda self: saved.append(self.global_steps))

    def export(folder: str) -> None:
        Path(folder).mkdir(parents=True)
        (Path(folder) / "config.json").touch()

    trainer.actor_rollout_wg = SimpleNamespace(export_policy=export)
    for step in (9, 10, 11):
        trainer.global_steps = step
        trainer._save_checkpoint()
        trainer._save_checkpoint()  # asked to stop in a step that is saved anyway: verl would delete what it wrote
        assert (tmp_path / "policy").resolve().parent.name == f"global_step_{step}"
    assert saved == [9, 10, 11]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["global_step_10", "global_step_11"]


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


def test_dialogues_that_raised_are_counted(tiny_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    trainer = trainer_of(tiny_recipe("grpo"), None, tmp_path)  # 4 prompts x 2
    assert trainer._failed(8) == 0.0 and trainer._failed(5) == 3.0
