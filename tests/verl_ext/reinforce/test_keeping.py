"""What the trainer's step leaves on disk: the dialogues as they were, with the masks that were judged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

import verl_ext.reinforce.keeping as keeping_module
from rollout.types import Sample, StopReason
from tests.verl_ext.batches import ANSWER, SELECT, jagged
from tests.verl_ext.dialogues import InProcessPool, box_episode, box_recipe, seg_episode, true_answer
from tests.verl_ext.reinforce.test_trainer import LENGTHS, Queue, fill, queue, trainer_of
from verl_ext.recipe import Recipe
from verl_ext.reinforce.modes import VideosegTrainer
from verl_ext.rollout_log import KeptGroup, RolloutKeeper, read_group, read_header, step_files
from verl_ext.seg.batch import rows_with_dummy

assert queue  # a fixture
SAID = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0]), torch.tensor([1.0, 1.0, 1.0])


@pytest.fixture
def step(queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[KeptGroup]]:
    """Scores a batch, computes its advantages, and returns what is on disk afterwards."""
    monkeypatch.setattr(keeping_module, "tq", queue)
    monkeypatch.setattr(PPOTrainerSync, "_compute_advantage", lambda self, batch, metrics: batch)
    queue.columns |= {
        "response_mask": jagged(SAID),
        "advantages": jagged([0.5 * SAID[0], -0.5 * SAID[1]]),
        "old_log_probs": jagged([torch.linspace(-1.0, -0.2, 5), torch.full((3,), -2.0)]),
        "rollout_log_probs": jagged([torch.linspace(-1.0, -0.2, 5) + 0.01, torch.full((3,), -2.0)]),
        "entropy": jagged([torch.ones(5), torch.zeros(3)]),
        "ref_log_prob": jagged([torch.linspace(-1.0, -0.2, 5), torch.full((3,), -2.5)]),
    }

    def run(trainer: VideosegTrainer, batch: Any, keep: bool = True) -> list[KeptGroup]:
        trainer.keeper = RolloutKeeper(tmp_path, trainer.recipe.trainer.keep_rollouts)
        trainer.use_reference_policy = True
        queue.columns["response_mask"] = jagged(SAID)
        trainer._score(batch, keep=keep)
        trainer._compute_advantage(batch, {})
        trainer.keeper.wait()
        files = step_files(tmp_path)
        if not files:
            return []
        header = read_header(files[-1], tmp_path)
        assert files[-1].step == trainer.global_steps
        return [read_group(files[-1], header, i, tmp_path) for i in range(len(header["groups"]))]

    return run


def columns_of_states(queue: Queue, counts: list[int]) -> None:
    g = torch.Generator().manual_seed(0)
    queue.columns["seg_states"] = rows_with_dummy(torch.randn(sum(counts), 32, generator=g), counts)
    queue.columns["mask_log_prob"] = rows_with_dummy(torch.zeros(sum(counts)), counts)
    queue.columns["mask_target"] = rows_with_dummy(torch.ones(sum(counts), 1024, dtype=torch.uint8), counts)


def test_a_group_is_kept_as_it_was_judged(
    step: Callable[..., list[KeptGroup]],
    queue: Queue,
    tiny_recipe: Callable[..., Recipe],
    sample: Sample,
    pool: InProcessPool,
    tmp_path: Path,
) -> None:
    recipe = tiny_recipe("grpo")
    trainer = trainer_of(recipe, pool, tmp_path)
    episodes = [seg_episode(recipe, sample, [SELECT, ANSWER]), seg_episode(recipe, sample, ["x"])]
    batch = fill(queue, sample, episodes)
    batch.tags = [{"min_global_steps": 1, "max_global_steps": 1}] * 2
    columns_of_states(queue, [2, 0])
    (group,) = step(trainer, batch)
    assert (group.sample, group.text, group.clip) == (sample.id, sample.expression.text, sample.clip)
    assert sample.masklets is not None
    assert group.visible == tuple(bool(v) for v in sample.masklets.existence())
    good, bad = group.rollouts
    assert [t.text for t in good.turns] == [SELECT, ANSWER] and good.stop is StopReason.ANSWERED
    assert bad.stop is episodes[1].stop and bad.turns[0].masks == {}
    assert [t.shown for t in good.turns] == [t.shown for t in episodes[0].turns]
    # the masks score what the rewards say
    from rollout.types import decode_rle

    last = good.turns[-1]
    assert set(last.masks) == {*episodes[0].spatial_frames, last.keyframe}
    key = decode_rle(last.masks[last.keyframe])
    union = sample.masklets.union(last.keyframe)
    iou = (key & union).sum() / (key | union).sum() if (key | union).any() else 1.0
    assert good.ious["keyframe"] == pytest.approx(float(iou))
    truth = group.truth[last.keyframe]
    assert np.array_equal(union, np.zeros_like(union) if truth is None else decode_rle(truth))
    # numbers are over what the policy wrote: the third token is the environment's
    assert good.advantage == 0.5 and bad.advantage == -0.5 and good.versions == (1, 1)
    assert good.log_probs.tokens == 4 and good.log_probs.mean == pytest.approx((-1.0 - 0.8 - 0.4 - 0.2) / 4)
    assert good.log_probs.engine_gap == pytest.approx(0.01, abs=1e-6) and good.log_probs.kl == pytest.approx(0.0)
    assert bad.log_probs.kl == pytest.approx(np.exp(-0.5) + 0.5 - 1, abs=1e-6) and bad.log_probs.least == -2.0


def test_masks_are_asked_for_only_where_they_are_kept(
    step: Callable[..., list[KeptGroup]],
    queue: Queue,
    tiny_recipe: Callable[..., Recipe],
    sample: Sample,
    pool: InProcessPool,
    tmp_path: Path,
) -> None:
    recipe = tiny_recipe("grpo", "trainer.keep_rollouts.groups=1")
    trainer = trainer_of(recipe, pool, tmp_path)
    batch = fill(queue, sample, [seg_episode(recipe, sample, [ANSWER]), seg_episode(recipe, sample, [ANSWER])])
    columns_of_states(queue, [1, 1])
    batch.keys = ["first_0_0", "second_0_0"]  # two groups of one prompt
    (group,) = step(trainer, batch)
    assert len(group.rollouts) == 1 and sorted(r.with_masks for r in pool.requests) == [False, True]
    batch.keys, batch.tags = ["a_0_0", "a_1_0"], [{}, {"is_padding": True}]
    pool.requests.clear()
    trainer.global_steps = 3
    (group,) = step(trainer, batch)
    assert len(group.rollouts) == 1, "a copy that fills up the batch is no rollout"
    pool.requests.clear()
    step(trainer, batch, keep=False)  # as held-out dialogues are scored
    assert not any(r.with_masks for r in pool.requests)
    assert len(step_files(tmp_path)) == 2


def test_box_dialogues_keep_the_propagated_masks(
    step: Callable[..., list[KeptGroup]],
    queue: Queue,
    tiny_recipe: Callable[..., Recipe],
    sample: Sample,
    pool: InProcessPool,
    tmp_path: Path,
) -> None:
    recipe = box_recipe(tiny_recipe)
    trainer = trainer_of(recipe, pool, tmp_path)
    good, bad = (box_episode(recipe, sample, say) for say in (true_answer(sample), lambda _: "no"))
    (group,) = step(trainer, fill(queue, sample, [good, bad]))
    assert group.box_side == recipe.rollout.box_side
    assert set(group.rollouts[0].turns[0].masks) == set(good.spatial_frames) and not group.rollouts[1].turns[0].masks


def test_lengths_fit_the_queue_of_the_other_tests() -> None:
    assert tuple(map(len, SAID)) == LENGTHS
