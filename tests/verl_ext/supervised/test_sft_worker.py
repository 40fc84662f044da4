"""Supervised training: the order of its data and its orderly end, around verl's own trainer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from verl.trainer.sft_trainer import SFTTrainer

from rollout.errors import DataError, WorkerError
from verl_ext.recipe import Recipe
from verl_ext.run.run_files import STOP_FILE, TOTAL_FILE
from verl_ext.run.verl_config import sft_config
from verl_ext.supervised.worker import SegSFTTrainer

ITEMS = 12


def trainer_of(recipe: Recipe) -> SegSFTTrainer:
    """verl's trainer up to its data loader, without a model."""
    trainer: SegSFTTrainer = object.__new__(SegSFTTrainer)
    trainer.config = sft_config(recipe)
    trainer.engine = SimpleNamespace(
        get_data_parallel_rank=lambda: 0, get_data_parallel_size=lambda: 1, get_data_parallel_group=lambda: None
    )
    trainer.train_dataset, trainer.val_dataset = list(range(ITEMS)), None
    return trainer


@pytest.fixture
def order(tiny_recipe: Callable[..., Recipe], activate: Callable[[Recipe], Recipe]) -> Callable[..., list[list[int]]]:
    """The items of the first two epochs."""

    def draw(*overrides: str) -> list[list[int]]:
        trainer = trainer_of(activate(tiny_recipe("sft", *overrides)))
        trainer._build_dataloader()
        epochs = []
        for epoch in range(2):
            trainer.train_sampler.set_epoch(epoch)
            epochs.append(list(trainer.train_sampler))
        return epochs

    return draw


def test_unshuffled_data_come_in_their_order(order: Any) -> None:
    assert order("trainer.shuffle=false") == [list(range(ITEMS))] * 2


def test_shuffled_data_follow_the_seed(order: Any) -> None:
    first, other = order("seed=1"), order("seed=2")
    assert [sorted(e) for e in first] == [list(range(ITEMS))] * 2
    assert first[0] != first[1] and first[0] != list(range(ITEMS))
    assert order("seed=1") == first and other != first


@pytest.fixture
def about_to_step(
    tiny_recipe: Callable[..., Recipe],
    activate: Callable[[Recipe], Recipe],
    process_group: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[int, int], SegSFTTrainer]:
    """``about_to_step(done, total)``: a trainer between two steps of a run in ``tmp_path``."""
    monkeypatch.setattr(SFTTrainer, "_get_batch_seqlens", lambda self, data: [1])
    monkeypatch.setattr("verl_ext.supervised.worker.check_step", lambda *_: 0)  # of frames: test_unreadable.py
    activate(tiny_recipe("sft", f"output_dir={tmp_path}"))

    def make(done: int, total: int) -> SegSFTTrainer:
        trainer: SegSFTTrainer = object.__new__(SegSFTTrainer)
        trainer.resume_global_step, trainer.total_training_steps = done, total
        trainer.engine = SimpleNamespace(get_data_parallel_group=lambda: None)
        return trainer

    return make


def test_asked_to_stop_the_step_under_way_is_the_last(about_to_step: Any, tmp_path: Path) -> None:
    trainer = about_to_step(4, 9)
    trainer._get_batch_seqlens(None)  # step 5
    assert trainer.total_training_steps == 9 and not trainer.stopped_early
    (tmp_path / STOP_FILE).touch()
    trainer._get_batch_seqlens(None)  # step 6: verl saves after the last step, so nothing of it is lost
    assert trainer.total_training_steps == 6 and trainer.stopped_early


def test_a_request_in_the_last_step_changes_nothing(about_to_step: Any, tmp_path: Path) -> None:
    trainer = about_to_step(0, 1)
    (tmp_path / STOP_FILE).touch()
    trainer._get_batch_seqlens(None)
    assert trainer.total_training_steps == 1 and not trainer.stopped_early


@pytest.mark.parametrize(("steps", "epochs", "expected"), [(9, 100, 9), (9, 2, 6), (None, 3, 9)])
def test_a_run_ends_with_its_last_epoch_at_the_latest(
    steps: int | None,
    epochs: int,
    expected: int,
    tiny_recipe: Callable[..., Recipe],
    activate: Callable[[Recipe], Recipe],
    process_group: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """verl would leave its loop without saving: what was learnt since the last checkpoint would be lost."""
    seen: list[int] = []
    monkeypatch.setattr(SFTTrainer, "_init_engine", lambda self: seen.append(self.config.trainer.total_training_steps))
    settings = (f"trainer.steps={'null' if steps is None else steps}", f"trainer.epochs={epochs}")
    trainer = trainer_of(activate(tiny_recipe("sft", f"output_dir={tmp_path}", *settings)))
    trainer._build_dataloader()  # 12 conversations, 4 a step
    trainer._init_engine()
    assert seen == [expected]
    assert json.loads((tmp_path / TOTAL_FILE).read_text()) == {"total": expected}


@pytest.mark.parametrize("section", ["data", "val"])
def test_less_data_than_one_step_is_refused(
    section: str, tiny_recipe: Callable[..., Recipe], activate: Callable[[Recipe], Recipe]
) -> None:
    trainer = trainer_of(activate(tiny_recipe("sft")))
    few = list(range(3))
    trainer.train_dataset, trainer.val_dataset = (few, None) if section == "data" else (trainer.train_dataset, few)
    with pytest.raises(DataError, match=rf"{section}: 3 conversations do not fill one step of .*prompts_per_step 4"):
        trainer._build_dataloader()


@pytest.mark.parametrize(("resumed_at", "trains"), [(0, True), (8, True), (9, False), (12, False)])
def test_a_finished_run_is_not_trained_on(resumed_at: int, trains: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[int] = []

    def fit(self: Any) -> None:
        called.append(1)
        self._begun = 9 - resumed_at

    monkeypatch.setattr(SFTTrainer, "fit", fit)
    trainer: SegSFTTrainer = object.__new__(SegSFTTrainer)
    trainer.resume_global_step, trainer.total_training_steps = resumed_at, 9
    trainer.fit()
    assert bool(called) == trains


def test_a_loop_that_ends_too_soon_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SFTTrainer, "fit", lambda self: None)
    trainer: SegSFTTrainer = object.__new__(SegSFTTrainer)
    trainer.resume_global_step, trainer.total_training_steps = 6, 9
    with pytest.raises(WorkerError, match="ended after step 6 of 9"):
        trainer.fit()


def test_held_out_conversations_that_are_left_over_are_named(
    tiny_recipe: Callable[..., Recipe], activate: Callable[[Recipe], Recipe], caplog: pytest.LogCaptureFixture
) -> None:
    trainer = trainer_of(activate(tiny_recipe("sft")))
    trainer.val_dataset = list(range(10))
    trainer._build_dataloader()
    assert "the first 8 of 10 conversations are evaluated" in caplog.text
    caplog.clear()
    trainer.val_dataset = list(range(8))
    trainer._build_dataloader()
    assert not caplog.text
