"""The trainer's own step on a queue in memory: with a mask head, with boxes, and when asked to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tensordict.tensorclass import NonTensorData
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils import tensordict_utils as tu

import verl_ext.reinforce.credit as credit_module
import verl_ext.reinforce.trainer as trainer_module
from rollout.errors import WorkerError
from rollout.types import Sample
from tests.verl_ext.batches import ANSWER, SELECT, jagged
from tests.verl_ext.dialogues import InProcessPool, box_episode, box_recipe, seg_episode, true_answer
from verl_ext.inference.turn_states import DRAWN_STATE
from verl_ext.recipe import Recipe
from verl_ext.reinforce.modes import VideosegTrainer
from verl_ext.scoring.rollouts import recipe_scoring
from verl_ext.seg.batch import rows_with_dummy
from verl_ext.seg.episodes import non_tensor_rows

LENGTHS = (5, 3)


class Queue:
    """TransferQueue's two calls."""

    def __init__(self) -> None:
        self.columns: dict[str, Any] = {}

    def kv_batch_get(self, keys: list[str], partition_id: str, select_fields: list[str]) -> Any:
        return tu.get_tensordict(tensor_dict={name: self.columns[name] for name in select_fields})

    def kv_batch_put(self, keys: list[str], partition_id: str, fields: Any) -> None:
        self.columns.update(dict(fields.items()))


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    queue = Queue()
    monkeypatch.setattr(trainer_module, "tq", queue)
    monkeypatch.setattr(credit_module, "tq", queue)
    return queue


def trainer_of(recipe: Recipe, pool: Any, out: Path) -> VideosegTrainer:
    """As ``_setup`` leaves it, without workers."""
    trainer: VideosegTrainer = object.__new__(VideosegTrainer)
    trainer.recipe, trainer.run_dir = recipe, out
    trainer.scoring, trainer.pool = recipe_scoring(recipe), pool
    trainer.timing_raw, trainer.global_steps, trainer.total_training_steps = {}, 2, 9
    trainer.parameter_sync_step = 1
    trainer.actor_rollout_wg = SimpleNamespace(decoder_state=lambda: [{}])
    return trainer


def fill(queue: Queue, sample: Sample, episodes: list[Any]) -> Any:
    extra = [{"episode": asdict(e) | {"stop": e.stop.value}} for e in episodes]
    queue.columns |= {
        "extra_fields": torch.stack([NonTensorData(e) for e in extra]),
        "sample": torch.stack([NonTensorData(sample.to_dict()) for _ in extra]),
        "response_mask": jagged([torch.ones(n) for n in LENGTHS]),
    }
    return SimpleNamespace(keys=["a_0_0", "a_1_0"], partition_id="train", tags=[{}, {}], extra_info={})


def test_seg_states_become_rewards_and_their_columns_make_way_for_the_reference(
    queue: Queue, tiny_recipe: Callable[..., Recipe], sample: Sample, pool: InProcessPool, tmp_path: Path
) -> None:
    recipe = tiny_recipe("grpo")
    trainer = trainer_of(recipe, pool, tmp_path)
    batch = fill(queue, sample, [seg_episode(recipe, sample, [SELECT, ANSWER]), seg_episode(recipe, sample, ["x"])])
    queue.columns["seg_states"] = rows_with_dummy(torch.randn(2, 32), [2, 0])
    queue.columns["mask_log_prob"] = rows_with_dummy(torch.tensor([-1.0, -2.0]), [2, 0])
    queue.columns["mask_target"] = rows_with_dummy(torch.ones(2, 1024, dtype=torch.uint8), [2, 0])
    rollouts = trainer._score(batch)
    for kept in ("mask_log_prob", "mask_target"):
        assert torch.equal(queue.columns[f"old_{kept}"].values(), queue.columns[kept].values())
    trainer._put_rewards(batch, rollouts)
    scores = queue.columns["rm_scores"].unbind()
    assert [len(s) for s in scores] == list(LENGTHS)
    assert [float(s[-1]) for s in scores] == pytest.approx([r.rewards["total"] for r in rollouts])
    assert all(float(s[:-1].abs().sum()) == 0 for s in scores)
    assert rollouts[0].rewards["strict_format"] == 1.0 and rollouts[1].rewards["strict_format"] == -1.0


def test_copies_that_fill_a_batch_were_shown_nothing_and_count_for_nobody(
    queue: Queue, tiny_recipe: Callable[..., Recipe], sample: Sample, pool: InProcessPool, tmp_path: Path
) -> None:
    recipe = tiny_recipe("grpo")
    trainer: Any = trainer_of(recipe, pool, tmp_path)
    trainer._projection = lambda hidden: hidden
    silent = replace(seg_episode(recipe, sample, ["x"]), turns=[])
    batch = fill(queue, sample, [seg_episode(recipe, sample, [ANSWER]), silent])
    batch.tags[1] = {"is_padding": True}
    state = torch.randn(1, 32)
    first, copy = non_tensor_rows(queue.columns, "extra_fields")
    queue.columns["extra_fields"] = torch.stack(
        [NonTensorData(row | {DRAWN_STATE: state[0].numpy()}) for row in (first, copy)]
    )
    queue.columns["seg_states"] = rows_with_dummy(state, [1, 0])
    queue.columns["mask_log_prob"] = rows_with_dummy(torch.tensor([-1.0]), [1, 0])
    queue.columns["mask_target"] = rows_with_dummy(torch.ones(1, 1024, dtype=torch.uint8), [1, 0])
    trainer._score(batch)
    assert trainer._traffic["rollout/masks_shown"] == 1.0 and trainer._traffic["rollout/drawn_state_gap_max"] == 0.0


def test_box_policies_need_no_seg_columns(
    queue: Queue, tiny_recipe: Callable[..., Recipe], sample: Sample, pool: InProcessPool, tmp_path: Path
) -> None:
    recipe = box_recipe(tiny_recipe)
    trainer = trainer_of(recipe, pool, tmp_path)
    good, bad = (box_episode(recipe, sample, say) for say in (true_answer(sample), lambda _: "no"))
    rollouts = trainer._score(fill(queue, sample, [good, bad]))
    assert rollouts[0].rewards["veason_spatial"] == pytest.approx(1.0)
    assert rollouts[1].rewards["total"] == 0.0
    assert not any(name.startswith("old_") for name in queue.columns)


def test_an_absent_head_syncs_nothing(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PPOTrainerSync, "on_step_end", lambda self: None)
    trainer = trainer_of(box_recipe(tiny_recipe), None, tmp_path)
    trainer.on_step_end()
    assert "update_pool" in trainer.timing_raw and trainer.total_training_steps == 9


def test_the_pool_gets_the_decoder_after_each_step(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PPOTrainerSync, "on_step_end", lambda self: None)
    loaded: list[Any] = []
    trainer = trainer_of(tiny_recipe("grpo"), SimpleNamespace(load_decoder=loaded.append), tmp_path)
    state = {"sam_mask_decoder.iou_token.weight": torch.zeros(1)}
    trainer.actor_rollout_wg = SimpleNamespace(decoder_state=lambda: [state, {}])
    trainer.on_step_end()
    assert loaded == [state]


def test_masks_for_dialogues_are_drawn_by_the_newest_projection(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a run begins or goes on, and after each step, as the pool's decoder is."""
    monkeypatch.setattr(PPOTrainerSync, "on_init_end", lambda self: None)
    monkeypatch.setattr(PPOTrainerSync, "on_step_end", lambda self: None)
    opened: list[Any] = []
    monkeypatch.setattr(trainer_module, "DeskServer", lambda pool, project: opened.append(project))
    recipe = tiny_recipe("grpo", "rollout.environment=verified_masks")
    trainer = trainer_of(recipe, SimpleNamespace(load_decoder=lambda state: None), tmp_path)
    trainer.config, trainer.global_steps = OmegaConf.create({"trainer": {}}), 0
    trainer._open_desk()
    (project,) = opened
    hidden = np.ones(3, dtype=np.float32)
    with pytest.raises(WorkerError, match="before the policy's"):
        project(hidden)

    def weights(scale: float) -> dict[str, torch.Tensor]:
        first, last = torch.eye(3) * scale, torch.ones(2, 3)
        biases = {"text_hidden_fcs.0.bias": torch.zeros(3), "text_hidden_fcs.2.bias": torch.zeros(2)}
        return {"text_hidden_fcs.0.weight": first, "text_hidden_fcs.2.weight": last, **biases}

    for scale, moment in ((1.0, trainer.on_init_end), (2.0, trainer.on_step_end)):
        trainer.actor_rollout_wg = SimpleNamespace(
            decoder_state=lambda: [{}], projection_state=lambda scale=scale: [weights(scale), {}]
        )
        moment()
        assert project(hidden).tolist() == [3.0 * scale] * 2
    opened.clear()
    boxes = trainer_of(box_recipe(tiny_recipe), None, tmp_path)
    boxes._open_desk()
    assert opened == [None], "boxes are sent as the segmenter takes them"


def test_asked_to_stop_it_saves_and_ends_after_this_step(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PPOTrainerSync, "on_step_end", lambda self: None)
    trainer = trainer_of(tiny_recipe("grpo"), None, tmp_path)
    saved: list[int] = []
    monkeypatch.setattr(trainer, "_save_checkpoint", lambda: saved.append(trainer.global_steps))
    trainer.on_step_end()
    assert saved == []
    (tmp_path / "STOP").touch()
    trainer.on_step_end()
    assert saved == [2] and trainer.total_training_steps == 2
    trainer.on_step_end()
    assert saved == [2]  # the last step saves by itself


def test_credit_by_part_changes_the_advantages_of_seg_tokens_alone(
    queue: Queue, tiny_recipe: Callable[..., Recipe], sample: Sample, pool: InProcessPool, tmp_path: Path
) -> None:
    recipe = tiny_recipe("grpo", "objective.credit=by_part")
    trainer = trainer_of(recipe, pool, tmp_path)
    episodes = [seg_episode(recipe, sample, [SELECT, ANSWER]), seg_episode(recipe, sample, ["x"])]
    for turn, position in zip(episodes[0].turns, (7, 19), strict=True):
        turn.seg_positions = [position]
    batch = fill(queue, sample, episodes)
    seg, length, start = (7, 19), 22, 5
    queue.columns |= {
        "prompts": jagged([torch.zeros(start, dtype=torch.long), torch.zeros(4, dtype=torch.long)]),
        "advantages": jagged([torch.full((length - start,), 0.7), torch.full((3,), -0.7)]),
        "uid": torch.stack([NonTensorData("a"), NonTensorData("a")]),
    }
    trainer._mask_rewards = {"a_0_0": -1.0, "a_1_0": 1.0}
    trainer._credit_by_part(batch)
    good, bad = (row.tolist() for row in queue.columns["advantages"].unbind())
    of_masks = -1 / (2**0.5 + recipe.objective.advantage_eps)
    places = [p - start for p in seg]
    assert [good[p] for p in places] == pytest.approx([of_masks] * len(seg))
    assert [a for t, a in enumerate(good) if t not in places] == pytest.approx([0.7] * (len(good) - len(seg)))
    assert bad == pytest.approx([-0.7] * 3), "a reply without [SEG] keeps its advantage"
