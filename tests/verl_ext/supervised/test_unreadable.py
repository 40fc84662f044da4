"""A conversation whose frames cannot be read costs itself alone, and too many end the run."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoProcessor
from verl.trainer.sft_trainer import SFTTrainer
from verl.utils import tensordict_utils as tu
from verl.utils.dataset.dataset_utils import DatasetPadMode, SFTTensorCollator

from rollout.errors import DataError, WorkerError
from tests.verl_ext.batches import supervised_batch
from verl_ext.objective.sft_loss import supervised_loss
from verl_ext.recipe import Recipe
from verl_ext.run.run_files import FAILED_DIALOGUES
from verl_ext.seg.episodes import non_tensor_rows
from verl_ext.supervised.dataset import SFTDataset
from verl_ext.supervised.unreadable import UNREADABLE, HeldOutBatches
from verl_ext.supervised.worker import SegSFTTrainer

Make = Callable[..., Recipe]


@pytest.fixture
def hurt(tiny_recipe: Make, tiny_data: Path, tmp_path: Path) -> Callable[..., Recipe]:
    """Of the data's three clips the first has a frame that is no picture, first or last of the clip."""

    def make(frame: int, *overrides: str) -> Recipe:
        root = tmp_path / "data"
        shutil.copytree(tiny_data, root)
        recipe = tiny_recipe("sft", f"output_dir={tmp_path}", f"data.0.root={root}", *overrides)
        clips = sorted(p for p in (root / "JPEGImages").rglob("*") if p.is_dir() and any(p.glob("*.jpg")))
        sorted(clips[0].iterdir())[frame].write_bytes(b"no picture")
        return recipe

    return make


@pytest.fixture
def dataset(tiny_policy: Path, activate: Callable[[Recipe], Recipe]) -> Callable[..., SFTDataset]:
    processor = AutoProcessor.from_pretrained(tiny_policy)
    return lambda recipe, name="train": (activate(recipe), SFTDataset([name], processor.tokenizer, None, processor))[1]


def test_it_is_told_and_stands_for_nothing(
    hurt: Any, dataset: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    data = dataset(hurt(0))
    with caplog.at_level(logging.WARNING):
        rows = [data[i] for i in range(len(data))]
    lost = [row for row in rows if UNREADABLE in row["episode"]]
    clips = {row["sample"]["clip"]["name"] for row in lost}
    assert len(clips) == 1 and 0 < len(lost) < len(rows)
    of_it = [row["sample"]["clip"]["name"] in clips for row in rows]
    assert of_it == [UNREADABLE in row["episode"] for row in rows], "of that clip all, no other"
    assert len(caplog.records) == len(lost)
    assert f"clip {next(iter(clips))}, frame 0, file {tmp_path}" in caplog.text and "left out" in caplog.text
    for row in lost:
        assert int(row["loss_mask"].sum()) == 0 and not row["multi_modal_inputs"] and row["episode"]["turns"] == []


def trainer_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SegSFTTrainer:
    monkeypatch.setattr(SFTTrainer, "_get_batch_seqlens", lambda self, data: [1])
    trainer: SegSFTTrainer = object.__new__(SegSFTTrainer)
    trainer.resume_global_step, trainer.total_training_steps = 4, 9
    trainer.engine = SimpleNamespace(get_data_parallel_group=lambda: None)
    return trainer


def test_a_step_bears_some_and_not_many(
    hurt: Any, dataset: Any, process_group: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rule of reinforcement's dialogues, and where those are written down."""
    data = dataset(hurt(0))
    bad = [i for i in range(len(data)) if UNREADABLE in data[i]["episode"]]
    good = [i for i in range(len(data)) if i not in bad]
    trainer = trainer_in(tmp_path, monkeypatch)
    trainer._get_batch_seqlens(supervised_batch(data, [bad[0], *good[:3]]))
    rows = [json.loads(line) for line in (tmp_path / FAILED_DIALOGUES).read_text().splitlines()]
    assert [row["step"] for row in rows] == [5] and "cannot be read as an image" in rows[0]["error"]
    with pytest.raises(WorkerError, match=r"step 6: 2 of 4 conversations failed; the first: .*frame 0.*--resume"):
        trainer._get_batch_seqlens(supervised_batch(data, [*bad[:1] * 2, *good[:2]]))


@pytest.mark.parametrize("packing", ["none", "group"])
def test_the_other_conversations_train_as_without_it(hurt: Any, dataset: Any, build_worker: Any, packing: str) -> None:
    """Also where it is all that a micro-batch holds."""
    recipe = hurt(0, f"policy.packing={packing}", "trainer.micro_batch=1")
    data = dataset(recipe)
    bad = next(i for i in range(len(data)) if UNREADABLE in data[i]["episode"])
    good = [i for i in range(len(data)) if UNREADABLE not in data[i]["episode"]][:3]
    found = []
    for rows in ([bad, *good], good):
        worker = build_worker(recipe)
        worker.set_loss_fn(partial(supervised_loss, config=None))
        metrics = dict(tu.get(worker.train_batch(supervised_batch(data, rows, micro_batch=1)), "metrics"))
        found.append((metrics, worker.engine.full_state()))
    (with_it, after), (without, expected) = found
    assert with_it["lm"] == pytest.approx(without["lm"], rel=1e-5), "a mean over the tokens that are learnt"
    assert with_it["dice"] == pytest.approx(without["dice"] * 3 / 4, rel=1e-4), "a mean over the step's conversations"
    assert all(torch.isfinite(t).all() for t in after.values()) and after.keys() == expected.keys()
    assert not torch.equal(after["lm_head.weight"], worker_start(recipe)["lm_head.weight"])


def worker_start(recipe: Recipe) -> dict[str, torch.Tensor]:
    from verl_ext.policy.checkpoint import load_policy

    state: dict[str, torch.Tensor] = load_policy(recipe.policy.path).state_dict()
    return state


def test_held_out_data_of_which_too_little_is_left_are_no_measure(hurt: Any, dataset: Any, tmp_path: Path) -> None:
    recipe = hurt(-1)
    recipe.val, recipe.trainer.eval_samples = recipe.data, None
    data = dataset(recipe, "held_out")
    with pytest.raises(DataError, match=r"val: \d of \d+ conversations cannot be read; the last: .*frame 11"):
        for i in range(len(data)):
            data[i]


def test_held_out_batches_are_counted_whichever_process_read_them(hurt: Any, dataset: Any, process_group: None) -> None:
    """Of four loader's processes none sees more than a quarter; a batch without a token would make the mean NaN."""
    recipe = hurt(-1)
    recipe.val, recipe.trainer.eval_samples = recipe.data, None
    data = dataset(recipe, "held_out")
    rows = {}
    for i in range(len(data)):
        data._lost.clear()  # what another process has lost
        rows[i] = data[i]
    bad = [i for i in rows if UNREADABLE in rows[i]["episode"]]
    good = [i for i in rows if i not in bad]
    collate = SFTTensorCollator(DatasetPadMode.NO_PADDING)

    def evaluated(*batches: list[int]) -> list[int]:
        loader = HeldOutBatches([collate([rows[i] for i in batch]) for batch in batches], None, "cpu")
        return [len(non_tensor_rows(batch, "episode")) for batch in loader]

    assert evaluated(good[:2], bad[:1], good[:2]) == [2, 2]
    assert evaluated([bad[0], *good[:3]]) == [4], "a quarter"
    with pytest.raises(DataError, match=r"val: 2 of 6 conversations cannot be read"):
        evaluated(good[:2], bad[:1], bad[:1], good[:2])


def test_supervised_training_evaluates_such_batches(
    tiny_recipe: Make, activate: Callable[[Recipe], Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    activate(tiny_recipe("sft"))
    trainer: SegSFTTrainer = object.__new__(SegSFTTrainer)
    trainer.engine = SimpleNamespace(get_data_parallel_group=lambda: None)

    def build(self: Any) -> None:
        self.train_sampler, self.train_dataset, self.val_dataset = SimpleNamespace(), [0], [0] * 8
        self.train_dataloader = self.val_dataloader = [0]

    monkeypatch.setattr(SFTTrainer, "_build_dataloader", build)
    trainer._build_dataloader()
    assert isinstance(trainer.val_dataloader, HeldOutBatches)
