"""From dialogues to rewards and masks, with the pool's own code in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rewards.segmenter import RequestScorer, Segmenter
from rollout.environments.keyframe_exploration import ExplorationSettings, KeyframeExploration
from rollout.environments.single_turn_boxes import BoxSettings, SingleTurnBoxes
from rollout.types import Episode, Masklets, Sample, StopReason
from tests.verl_ext.batches import ANSWER, SELECT
from verl_ext.calibration import SegCountMismatchError
from verl_ext.held_out import held_out_metrics, union_rles
from verl_ext.policy.checkpoint import load_policy
from verl_ext.recipe import Recipe
from verl_ext.rollout_settings import environment_of
from verl_ext.scoring import (
    Remembered,
    Rollout,
    episode_from_dict,
    metrics_of,
    predict_masks,
    recipe_scoring,
    score_rollouts,
    scoring_of,
    truth,
)
from verl_ext.scoring_boxes import frame_truth
from verl_ext.scoring_seg import states_by_turn
from verl_ext.seg_batch import rows_with_dummy
from verl_ext.sources import load_samples

SIDE = 112
BOX_WEIGHTS = {"veason_format": 1.0, "veason_keyframe": 1.0, "veason_spatial": 1.0, "veason_consistency": 1.0}


class InProcessPool:
    """What a pool's actor does, without Ray."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.scorer = RequestScorer(segmenter)
        self.requests: list[Any] = []

    @property
    def prompt_width(self) -> int:
        return self.scorer.segmenter.prompt_width

    def score(self, requests: Sequence[Any]) -> list[Any]:
        self.requests += requests
        answers: list[Any] = list(self.scorer.score(requests))
        for error in (a for a in answers if isinstance(a, Exception)):
            raise error
        return answers


@pytest.fixture(scope="module")
def segmenter(tiny_policy: Path) -> Segmenter:
    segmenter: Segmenter = load_policy(tiny_policy).grounding_encoder
    return segmenter


@pytest.fixture
def pool(segmenter: Segmenter) -> InProcessPool:
    return InProcessPool(segmenter)


@pytest.fixture(scope="module")
def samples(tiny_recipe: Callable[..., Recipe]) -> list[Sample]:
    """With a target, and visible somewhere in the clip."""
    return [s for s in load_samples(tiny_recipe("grpo")) if s.masklets is not None and s.masklets.areas().any()]


# ---- [SEG] dialogues --------------------------------------------------------------------------------------------


def seg_episode(recipe: Recipe, sample: Sample, replies: Sequence[str]) -> Episode:
    environment = KeyframeExploration(sample, ExplorationSettings.from_dict(environment_of(recipe)[1]), 32)
    outcome: Any = environment.begin()
    for reply in replies:
        outcome = environment.step(reply)
    assert isinstance(outcome, StopReason)
    episode = environment.episode(outcome)
    for i, turn in enumerate(episode.turns):
        turn.seg_positions = [10 * i] if "[SEG]" in turn.text else []
    return episode


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
    refused = Episode([], StopReason.REFUSED_CLIP, (), sample.clip.num_frames)
    g = np.random.default_rng(0)
    states: list[list[Any]] = [[g.normal(size=32).astype(np.float32) for _ in range(2)], [None], []]
    rollouts = score_rollouts(scoring, pool, [sample] * 3, [good, bad, refused], states)
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
    from pycocotools import mask as coco_mask

    assert sum(int(coco_mask.area(m)) for m in masks[1] if m is not None) == 0  # no [SEG], no mask


def test_episode_survives_the_journey(tiny_recipe: Callable[..., Recipe], samples: list[Sample]) -> None:
    from dataclasses import asdict

    episode = seg_episode(tiny_recipe("grpo"), samples[0], [SELECT, ANSWER])
    travelled = json.loads(json.dumps(asdict(episode) | {"stop": episode.stop.value}))
    travelled["spatial_frames"] = tuple(travelled["spatial_frames"])
    assert episode_from_dict(travelled) == episode


# ---- boxes ------------------------------------------------------------------------------------------------------


def box_recipe(tiny_recipe: Callable[..., Recipe]) -> Recipe:
    recipe = tiny_recipe("grpo")
    recipe.method = "veason_r1"
    recipe.rollout.box_frames, recipe.rollout.box_side = 4, SIDE
    recipe.rewards.weights = dict(BOX_WEIGHTS)
    return recipe


def box_episode(recipe: Recipe, sample: Sample, reply: Callable[[SingleTurnBoxes], str]) -> Episode:
    environment = SingleTurnBoxes(sample, BoxSettings.from_dict(environment_of(recipe)[1]), 28)
    environment.begin()
    outcome = environment.step(reply(environment))
    assert isinstance(outcome, StopReason)
    return environment.episode(outcome)


def true_answer(sample: Sample) -> Callable[[SingleTurnBoxes], str]:
    """The policy that knows: the frame with the largest target, and the true boxes there."""

    def say(environment: SingleTurnBoxes) -> str:
        assert sample.masklets is not None
        areas = sample.masklets.areas()
        frame = max(environment.frames, key=lambda t: int(areas[t]))
        boxes, _ = frame_truth(sample.masklets, [frame], SIDE)
        return answer(environment.timestamps[environment.frames.index(frame)], [b for b in boxes[0] if any(b)])

    return say


def answer(timestamp: int, boxes: Sequence[Sequence[float]]) -> str:
    body = json.dumps({"keyframe_timestamp": timestamp, "bbox_2d_list": [list(b) for b in boxes]})
    return f"<think>It is there.</think><answer>{body}</answer>"


def test_true_boxes_score_fully_and_prompt_the_segmenter_in_clip_pixels(
    tiny_recipe: Callable[..., Recipe], samples: list[Sample], pool: InProcessPool
) -> None:
    recipe = box_recipe(tiny_recipe)
    scoring = recipe_scoring(recipe)
    for sample in samples:
        episode = box_episode(recipe, sample, true_answer(sample))
        rollout = score_rollouts(scoring, pool, [sample], [episode], scoring.states([episode], {}))[0]
        request = pool.requests[-1]
        assert rollout.rewards["veason_format"] == 2.0
        assert rollout.rewards["veason_keyframe"] == rollout.rewards["veason_spatial"] == pytest.approx(1.0)
        assert tuple(request.frames) == episode.spatial_frames and request.keyframe in request.frames
        masklets = truth(sample)
        visible = [o for o in range(len(masklets.rles)) if masklets.object_mask(o, request.keyframe).any()]
        assert len(request.boxes) == len(visible)
        for box in request.boxes:  # within a pixel of one object's own extent
            assert any(np.allclose(box, extent(masklets, o, request.keyframe), atol=1.0) for o in visible)
        direct = pool.score([request])[0]
        assert rollout.rewards["veason_consistency"] == pytest.approx(np.mean(direct.ious))
        assert rollout.ious == {"frames": pytest.approx(np.mean(direct.ious))}


def extent(masklets: Masklets, obj: int, frame: int) -> list[float]:
    rows, columns = np.nonzero(masklets.object_mask(obj, frame))
    return [columns.min(), rows.min(), columns.max(), rows.max()]


@pytest.mark.parametrize(
    "reply",
    ["", "no tags", answer(99, [[1, 2, 30, 40]]), answer(0, []), "<think>x</think><answer>{}</answer>"],
)
def test_malformed_box_replies_score_without_asking(
    tiny_recipe: Callable[..., Recipe], samples: list[Sample], pool: InProcessPool, reply: str
) -> None:
    recipe, sample = box_recipe(tiny_recipe), samples[0]
    episode = box_episode(recipe, sample, lambda _: reply)
    rollout = score_rollouts(recipe_scoring(recipe), pool, [sample], [episode], [[None]])[0]
    assert pool.requests == []
    assert rollout.rewards["veason_spatial"] == rollout.rewards["veason_consistency"] == 0.0
    masks = predict_masks(recipe_scoring(recipe), pool, [rollout])
    assert len(masks[0]) == sample.clip.num_frames
    assert pool.requests[0].boxes == []


def test_a_refused_clip_has_the_rewards_of_an_empty_reply(
    tiny_recipe: Callable[..., Recipe], samples: list[Sample], pool: InProcessPool
) -> None:
    recipe, sample = box_recipe(tiny_recipe), samples[0]
    refused = Episode([], StopReason.REFUSED_CLIP, (), sample.clip.num_frames)
    rollout = score_rollouts(recipe_scoring(recipe), pool, [sample], [refused], [[]])[0]
    assert set(rollout.rewards.values()) == {0.0}


def test_box_rewards_without_consistency_need_no_pool(
    tiny_recipe: Callable[..., Recipe], samples: list[Sample]
) -> None:
    recipe, sample = box_recipe(tiny_recipe), samples[0]
    recipe.rewards.weights.pop("veason_consistency")
    scoring = recipe_scoring(recipe)
    episode = box_episode(recipe, sample, true_answer(sample))
    assert not scoring.needs_pool
    rollout = score_rollouts(scoring, None, [sample], [episode], [[None]])[0]
    assert rollout.rewards["total"] == pytest.approx(4.0)


def test_box_masks_cover_all_frames_and_equal_the_scored_ones(
    tiny_recipe: Callable[..., Recipe], samples: list[Sample], pool: InProcessPool
) -> None:
    recipe, sample = box_recipe(tiny_recipe), samples[0]
    scoring = scoring_of(*environment_of(recipe, evaluation=True), {})
    episode = box_episode(recipe, sample, true_answer(sample))
    masks = predict_masks(scoring, pool, [Rollout(sample, episode, [None])])[0]
    request = pool.requests[-1]
    assert list(request.frames) == list(range(sample.clip.num_frames)) and request.with_masks
    from pycocotools import mask as coco_mask

    ious = pool.score([request])[0].ious
    for t, (mask, iou) in enumerate(zip(masks, ious, strict=True)):
        assert mask is not None
        predicted, true = coco_mask.decode(mask).astype(bool), truth(sample).union(t)
        union = (predicted | true).sum()
        assert iou == pytest.approx((predicted & true).sum() / union if union else 1.0, abs=1e-6)


def test_frame_truth_scales_and_marks_absence(samples: list[Sample]) -> None:
    from pycocotools import mask as coco_mask

    shape = np.zeros((20, 40), dtype=np.uint8)
    shape[3:7, 10:21] = 1
    rle = coco_mask.encode(np.asfortranarray(shape))
    masklets = Masklets(20, 40, ((rle, None), (None, None)), 2)
    boxes, areas = frame_truth(masklets, [0, 1], 100)
    # x: 10..20 at 2.5 -> 25, 50; y: 3..6 at 5 -> 15, 30; rounded half up
    assert boxes == [[(25, 15, 50, 30), (0, 0, 0, 0)], [(0, 0, 0, 0), (0, 0, 0, 0)]]
    assert areas == [44, 0]
    assert frame_truth(masklets, [0], 50)[0][0][0] == (13, 8, 25, 15)  # 12.5 and 7.5 go up


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


def test_held_out_truth_scores_a_hundred_and_nothing_what_absence_earns(samples: list[Sample]) -> None:
    rollouts = [Rollout(s, Episode([], StopReason.ANSWERED, (), s.clip.num_frames), []) for s in samples]
    perfect = held_out_metrics(rollouts, [union_rles(truth(s)) for s in samples])
    assert perfect["val/jf"] == pytest.approx(100.0)
    assert {f"val/jf/{s.expression.kind}" for s in samples} <= perfect.keys()
    nothing = held_out_metrics(rollouts, [[None] * s.clip.num_frames for s in samples])
    absent = np.mean([100.0 * (1 - truth(s).existence().mean()) for s in samples])
    assert nothing["val/jf"] == pytest.approx(absent)
    assert nothing["val/jf_std_error"] >= 0.0
