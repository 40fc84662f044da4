"""verl's supervised loop, stopped at any step and continued: every conversation comes as in an undisturbed run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import verl.trainer.sft_trainer as verl_sft
from tensordict.tensorclass import NonTensorData
from verl.trainer.sft_trainer import SFTTrainer

import verl_ext.supervised.checkpoints as checkpoints_module
from verl_ext.recipe import Recipe
from verl_ext.run.checkpoints import TRACKER, step_folders
from verl_ext.run.run_files import STOP_FILE
from verl_ext.run.verl_config import sft_config
from verl_ext.supervised.worker import SegSFTTrainer

ITEMS, BATCH, EPOCHS = 12, 4, 3
STEPS = ITEMS // BATCH * EPOCHS
Train = Callable[..., list[list[int]]]


class Engine:
    """What the loop and its checkpoints ask of one."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    def get_data_parallel_rank(self) -> int:
        return self.rank

    def get_data_parallel_size(self) -> int:
        return self.size

    def get_data_parallel_group(self) -> None:
        return None

    def is_mp_src_rank_with_outputs(self) -> bool:
        return True

    def save_checkpoint(self, local_path: str, **_: Any) -> None:
        Path(local_path).mkdir(parents=True)

    def load_checkpoint(self, path: str) -> None:
        assert Path(path).is_dir()


@pytest.fixture
def train(
    tiny_recipe: Callable[..., Recipe],
    activate: Callable[[Recipe], Recipe],
    process_group: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Train:
    """``train(stop_at=None, rank=0, size=1)``: run or continue in ``tmp_path``; the items of this rank's steps."""
    collate = SimpleNamespace(SFTTensorCollator=lambda mode: lambda rows: {"item": torch.tensor(rows)})
    monkeypatch.setattr(verl_sft, "SFTTensorCollator", collate.SFTTensorCollator)
    monkeypatch.setattr(verl_sft, "Tracking", lambda **_: SimpleNamespace(log=lambda **_: None))
    monkeypatch.setattr(SFTTrainer, "_get_batch_seqlens", lambda self, data: [1])
    monkeypatch.setattr(
        "verl_ext.supervised.worker.check_step", lambda *_: 0
    )  # items here are numbers, no conversations

    def export(engine: Any, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "config.json").touch()

    monkeypatch.setattr(checkpoints_module, "export_policy", export)

    def run(stop_at: int | None = None, rank: int = 0, size: int = 1) -> list[list[int]]:
        settings = (f"output_dir={tmp_path}", f"trainer.steps={STEPS}", f"trainer.epochs={EPOCHS}")
        recipe = tiny_recipe("sft", *settings, "trainer.resume=auto", "trainer.keep_checkpoints=1", "seed=3")
        trainer: SegSFTTrainer = object.__new__(SegSFTTrainer)
        trainer.config, trainer.rank, trainer.device_name = sft_config(activate(recipe)), 0, "cpu"
        trainer.engine, trainer.start_profile_step, trainer.end_profile_step = Engine(rank, size), -1, -1
        trainer.model_config = SimpleNamespace(tokenizer=SimpleNamespace(pad_token_id=0))
        trainer.optimizer_config = SimpleNamespace()
        trainer.train_dataset, trainer.val_dataset = list(range(ITEMS)), None
        seen: list[list[int]] = []

        def step(data: Any) -> dict[str, Any]:
            seen.append(data["item"].tolist())
            if trainer.resume_global_step + len(seen) + 1 == stop_at:
                (tmp_path / STOP_FILE).touch()  # the next step is the last
            return {"metrics": NonTensorData({"loss": 1.0})}

        trainer.training_client = SimpleNamespace(train_batch=step, reset=lambda: None, step_profile=lambda: None)
        trainer._build_dataloader()
        trainer._init_engine()
        trainer._build_ckpt_handler()
        trainer.resume_global_step = trainer.ckpt_handler.load_checkpoint()
        trainer.fit()
        (tmp_path / STOP_FILE).unlink(missing_ok=True)
        return seen

    return run


@pytest.mark.parametrize("stop_at", [2, 3, 4, 6, 8])  # an epoch is three steps
def test_a_continued_run_takes_up_the_data_where_it_left_them(train: Train, tmp_path: Path, stop_at: int) -> None:
    whole = train()
    assert len(whole) == STEPS and {len(b) for b in whole} == {BATCH}
    for epoch in range(EPOCHS):
        assert sorted(item for step in whole[3 * epoch : 3 * epoch + 3] for item in step) == list(range(ITEMS))
    (tmp_path / "checkpoints").rename(tmp_path / "whole")
    first = train(stop_at)
    assert first == whole[:stop_at]
    assert [step for step, _ in step_folders(tmp_path)] == [stop_at]
    assert first + train() == whole
    assert (tmp_path / "checkpoints" / TRACKER).read_text() == str(STEPS)


@pytest.mark.parametrize("stop_at", [2, 3, 4])
def test_another_number_of_processes_takes_up_the_data_where_they_were_left(
    train: Train, tmp_path: Path, stop_at: int
) -> None:
    whole = [sorted(step) for step in train()]
    checkpoints, kept = tmp_path / "checkpoints", tmp_path / "kept"
    checkpoints.rename(tmp_path / "whole")
    train(stop_at)
    shutil.copytree(checkpoints, kept)
    shares = []
    for rank in (0, 1):
        shutil.rmtree(checkpoints)
        shutil.copytree(kept, checkpoints)
        shares.append(train(rank=rank, size=2))
    assert [sorted(a + b) for a, b in zip(*shares, strict=True)] == whole[stop_at:]
    shutil.rmtree(checkpoints)
    first = train(stop_at, rank=0, size=2)
    assert {len(step) for step in first} == {BATCH // 2}
    assert [sorted(step) for step in train()] == whole[stop_at:]


def test_every_checkpoint_has_its_policy_and_output_dir_names_the_newest(train: Train, tmp_path: Path) -> None:
    train(stop_at=4)
    assert (tmp_path / "policy").resolve().parent.name == "global_step_4"
    shutil.rmtree((tmp_path / "policy").resolve())  # died between saving and exporting
    train(stop_at=6)
    assert (tmp_path / "policy" / "config.json").is_file()
    assert [p.name for p in (tmp_path / "checkpoints").glob("*/policy/config.json")] == ["config.json"]
    assert (tmp_path / "policy").resolve().parent.name == "global_step_6"
