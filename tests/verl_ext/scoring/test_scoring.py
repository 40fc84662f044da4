"""From dialogues to rewards and masks, with the pool's own code in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from rewards.segmenter import PropagateRequest
from rewards.truth import truth
from rollout.errors import DataError
from rollout.types import Action, Episode, Grounding, Sample, StopReason, Turn
from tests.verl_ext.batches import ANSWER, SELECT
from tests.verl_ext.dialogues import InProcessPool, box_recipe, seg_episode
from verl_ext.recipe import Recipe
from verl_ext.recipe.rollout_settings import environment_of
from verl_ext.reinforce.held_out import held_out_metrics, union_rles
from verl_ext.scoring.rollouts import (
    Remembered,
    Rollout,
    episode_from_dict,
    metrics_of,
    predict_masks,
    recipe_scoring,
    score_rollouts,
    scoring_of,
)
from verl_ext.scoring.seg import states_by_turn
from verl_ext.seg.batch import rows_with_dummy
from verl_ext.seg.calibration import SegCountMismatchError

# ---- [SEG] dialogues --------------------------------------------------------------------------------------------


def test_seg_states_come_back_by_turn(tiny_recipe: Callable[..., Recipe], samples: list[Sample]) -> None:
    recipe = tiny_recipe("grpo")
    episodes = [
        seg_episode(recipe, samples[0], [SELECT, ANSWER]),
        seg_episode(recipe, samples[0], ["no tags at all"]),
        seg_episode(recipe, samples[0], [ANSWER]),
    ]
    values = torch.arange(12, dtype=torch.float32).view(3, 4)
    columns = {"seg_states": rows_with_dummy(values, [2, 0, 1])}
    found = recipe_scoring(recipe).states(episodes, columns)
    assert [[None if s is None else s.tolist() for s in turns] for turns in found] == [
        [[0, 1, 2, 3], [4, 5, 6, 7]],
        [None],
        [[8, 9, 10, 11]],
    ]


def test_a_turn_with_two_seg_tokens_is_scored_by_its_first(
    tiny_recipe: Callable[..., Recipe], samples: list[Sample]
) -> None:
    episode = seg_episode(tiny_recipe("grpo"), samples[0], [SELECT, ANSWER])
    episode.turns[0].seg_positions = [3, 5]
    states = states_by_turn(episode, np.arange(3, dtype=np.float32)[:, None])
    assert [s.tolist() for s in states if s is not None] == [[0.0], [2.0]]
    with pytest.raises(SegCountMismatchError, match=r"2 masks for 3 \[SEG\] tokens"):
        states_by_turn(episode, np.zeros((2, 1), dtype=np.float32))


@pytest.mark.parametrize(
    ("positions", "stop", "drawn"),
    [
        ([[5], [9]], StopReason.ANSWERED, 2),
        ([[5], [9, 12]], StopReason.ANSWERED, 3),
        ([[5], []], StopReason.ANSWERED, 1),
        ([[5, 7], []], StopReason.LENGTH, 2),
        ([[5], [9, 12], []], StopReason.TURN_LIMIT, 3),
        ([[], []], StopReason.ANSWERED, None),
        ([], StopReason.CONTEXT_FULL, None),
    ],
)
def test_the_newest_seg_of_the_dialogue_is_propagated(
    samples: list[Sample], positions: list[list[int]], stop: StopReason, drawn: int | None
) -> None:
    turns = [Turn("t", Action.SELECT, Grounding(0, 9, 4), 5, list(p), (0,)) for p in positions]
    episode = Episode(turns, stop, (0, 9), 10)
    numbers = np.arange(1, 1 + sum(map(len, positions)), dtype=np.float32)[:, None]
    request = scoring_of("keyframe_exploration", {}, {}).mask_request(
        samples[0], episode, states_by_turn(episode, numbers)
    )
    assert isinstance(request, PropagateRequest)
    assert (None if request.state is None else int(request.state[0])) == drawn


def test_states_of_another_sequence_are_not_taken(tiny_recipe: Callable[..., Recipe], samples: list[Sample]) -> None:
    recipe = tiny_recipe("grpo")
    episodes = [seg_episode(recipe, samples[0], [SELECT, ANSWER]), seg_episode(recipe, samples[0], [ANSWER])]
    columns = {"seg_states": rows_with_dummy(torch.zeros(3, 4), [1, 2])}
    with pytest.raises(SegCountMismatchError, match="sequence 0, states: 1 masks for 2"):
        recipe_scoring(recipe).states(episodes, columns)


def test_seg_rewards_are_those_of_the_decoded_masks(
    tiny_recipe: Callable[..., Recipe], samples: list[Sample], pool: InProcessPool
) -> None:
    recipe, sample = tiny_recipe("grpo"), samples[0]
    scoring = recipe_scoring(recipe)
    good, bad = seg_episode(recipe, sample, [SELECT, ANSWER]), seg_episode(recipe, sample, ["nonsense"])
    silent = Episode([], StopReason.CONTEXT_FULL, (0, 11), sample.clip.num_frames)
    g = np.random.default_rng(0)
    states: list[list[Any]] = [[g.normal(size=32).astype(np.float32) for _ in range(2)], [None], []]
    rollouts = score_rollouts(scoring, pool, [sample] * 3, [good, bad, silent], states)
    assert len(pool.requests) == 2  # nothing is asked about a dialogue that never began
    assert rollouts[0].rewards.keys() == {*recipe.rewards.weights, "total"}
    assert rollouts[0].rewards["strict_format"] == 1.0 and rollouts[1].rewards["strict_format"] == -1.0
    assert rollouts[2].rewards["strict_format"] == -1.0 and rollouts[2].ious == {}
    assert rollouts[0].rewards["total"] == pytest.approx(
        sum(v for name, v in rollouts[0].rewards.items() if name != "total")
    )
    direct = pool.score([scoring.reward_request(sample, good, states[0])])[0]
    assert rollouts[0].ious["keyframe"] == direct.keyframe_ious[-1]
    assert rollouts[0].ious["video"] == pytest.approx(np.mean(direct.video_ious[-1]))


@pytest.mark.parametrize("method", ["videoseg_o3", "veason_r1"])
def test_a_refused_clip_has_no_score(
    tiny_recipe: Callable[..., Recipe], samples: list[Sample], pool: InProcessPool, method: str
) -> None:
    recipe = tiny_recipe("grpo") if method == "videoseg_o3" else box_recipe(tiny_recipe)
    scoring = recipe_scoring(recipe)
    refused = Episode([], StopReason.REFUSED_CLIP, (0, 11), samples[0].clip.num_frames)
    for ask in (
        lambda: score_rollouts(scoring, pool, [samples[0]], [refused], [[]]),
        lambda: predict_masks(scoring, pool, [Rollout(samples[0], refused, [])]),
    ):
        with pytest.raises(DataError, match=f"{samples[0].id}: its frames could not be shown"):
            ask()
    assert pool.requests == []


def test_a_split_without_masks_scores_nothing(samples: list[Sample], pool: InProcessPool) -> None:
    """It would pass for an expression without a target, and an empty answer for the right one."""
    with pytest.raises(DataError, match=f"{samples[0].id}: its split has no masks"):
        truth(replace(samples[0], masklets=None))


def test_reward_weights_and_variant_come_from_the_recipe(
    tiny_recipe: Callable[..., Recipe], samples: list[Sample], pool: InProcessPool
) -> None:
    one = tiny_recipe("grpo", "rewards.weights.strict_format=3", "rewards.variant=released")
    scoring = recipe_scoring(one)
    episode = seg_episode(one, samples[0], [SELECT, ANSWER])
    rollout = score_rollouts(scoring, pool, [samples[0]], [episode], [[None, None]])[0]
    plain = sum(v for name, v in rollout.rewards.items() if name != "total")
    assert rollout.rewards["total"] == pytest.approx(plain + 2 * rollout.rewards["strict_format"])
    assert getattr(scoring, "variant", None) == "released"


def test_seg_masks_are_propagated_from_the_final_keyframe(
    tiny_recipe: Callable[..., Recipe], samples: list[Sample], pool: InProcessPool
) -> None:
    recipe, sample = tiny_recipe("grpo"), samples[0]
    scoring = recipe_scoring(recipe)
    episode = seg_episode(recipe, sample, [SELECT, ANSWER])
    state = np.random.default_rng(1).normal(size=32).astype(np.float32)
    rollouts = [Rollout(sample, episode, [None, s]) for s in (state, None)]
    masks = predict_masks(scoring, pool, rollouts)
    assert pool.requests[0].keyframe == 5  # what SELECT asked for
    assert [len(m) for m in masks] == [sample.clip.num_frames] * 2
    assert sum(int(coco_mask.area(m)) for m in masks[1] if m is not None) == 0  # no [SEG], no mask


@pytest.mark.parametrize(
    ("replies", "keyframe"),
    [
        ([SELECT, ANSWER.replace(": 5}", ": 3}")], 5),
        ([SELECT, SELECT.replace(": 5}", ": 8}")], 8),  # the turn limit: selected, though no turn saw it
        ([ANSWER.replace(": 5}", ": 3}")], 3),
        (["no tags"], 11),  # the middle one of the spatial frames 0 and 11
    ],
)
def test_validation_and_evaluation_start_from_the_same_keyframe(
    tiny_recipe: Callable[..., Recipe], samples: list[Sample], replies: list[str], keyframe: int
) -> None:
    recipe, sample = tiny_recipe("grpo"), samples[0]
    episode = seg_episode(recipe, sample, replies)
    alone = scoring_of(*environment_of(recipe, evaluation=True), {})
    for scoring in (recipe_scoring(recipe), alone):
        request = scoring.mask_request(sample, episode, [None] * len(replies))
        assert isinstance(request, PropagateRequest) and request.keyframe == keyframe


def test_episode_survives_the_journey(tiny_recipe: Callable[..., Recipe], samples: list[Sample]) -> None:
    episode = seg_episode(tiny_recipe("grpo"), samples[0], [SELECT, ANSWER])
    travelled = json.loads(json.dumps(asdict(episode) | {"stop": episode.stop.value}))
    travelled["spatial_frames"] = tuple(travelled["spatial_frames"])
    assert episode_from_dict(travelled) == episode


# ---- together ---------------------------------------------------------------------------------------------------


def test_metrics_are_means_and_every_stop_reason_is_there(samples: list[Sample]) -> None:
    def rollout(total: float, stop: StopReason, ious: dict[str, float]) -> Rollout:
        return Rollout(samples[0], Episode([], stop, (), 12), [], {"total": total}, ious)

    found = metrics_of(
        [rollout(1.0, StopReason.ANSWERED, {"video": 0.5}), rollout(3.0, StopReason.LENGTH, {})], prefix="val/"
    )
    assert found["val/reward/mean"] == 2.0 and found["val/reward/std_error"] == pytest.approx(1.0)
    assert found["val/stop/answered"] == found["val/stop/length"] == 0.5
    assert {f"val/stop/{r.value}" for r in StopReason} <= found.keys()
    assert found["val/iou/video"] == 0.5  # over those that have masks
    assert metrics_of([])["turns/mean"] == 0.0


def test_facts_about_ground_truth_are_made_once_a_sample(samples: list[Sample]) -> None:
    made: list[int] = []
    memory: Remembered[int] = Remembered(capacity=1)
    for sample in (samples[0], samples[0], samples[-1], samples[0]):
        memory.get(sample, lambda: made.append(1) or 0)  # type: ignore[func-returns-value]
    assert len(made) == 3


def test_facts_are_those_of_the_clip_and_its_targets(samples: list[Sample]) -> None:
    """Clips cut short and expressions with other targets share names, first frames and ids."""
    memory: Remembered[int] = Remembered()
    a = samples[0]
    shorter = replace(a, clip=replace(a.clip, frames=a.clip.frames[:4]))
    other = replace(a, expression=replace(a.expression, anno_ids=("another",)))
    made = [memory.get(sample, lambda i=i: i) for i, sample in enumerate((a, shorter, other, a))]  # type: ignore[misc]
    assert made == [0, 1, 2, 0]


def test_held_out_truth_scores_a_hundred_and_nothing_what_absence_earns(samples: list[Sample]) -> None:
    rollouts = [Rollout(s, Episode([], StopReason.ANSWERED, (), s.clip.num_frames), []) for s in samples]
    perfect = held_out_metrics(rollouts, [union_rles(truth(s)) for s in samples])
    assert perfect["val/jf"] == pytest.approx(100.0)
    assert {f"val/jf/{s.expression.kind}" for s in samples} <= perfect.keys()
    nothing = held_out_metrics(rollouts, [[None] * s.clip.num_frames for s in samples])
    absent = np.mean([100.0 * (1 - truth(s).existence().mean()) for s in samples])
    assert nothing["val/jf"] == pytest.approx(absent)
    assert nothing["val/jf_std_error"] >= 0.0
