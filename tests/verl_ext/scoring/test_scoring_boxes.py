"""Scoring of box answers with the pool's own code in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from rewards.truth import truth
from rollout.types import Episode, Masklets, Sample, StopReason
from tests.verl_ext.dialogues import SIDE, InProcessPool, answer, box_episode, box_recipe, true_answer
from verl_ext.recipe import Recipe
from verl_ext.recipe.rollout_settings import environment_of
from verl_ext.scoring.boxes import frame_truth
from verl_ext.scoring.rollouts import (
    Rollout,
    metrics_of,
    predict_masks,
    recipe_scoring,
    requests_of,
    score_rollouts,
    scoring_of,
)


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


def test_a_dialogue_that_did_not_fit_has_the_rewards_of_an_empty_reply(
    tiny_recipe: Callable[..., Recipe], samples: list[Sample], pool: InProcessPool
) -> None:
    recipe, sample = box_recipe(tiny_recipe), samples[0]
    silent = Episode([], StopReason.CONTEXT_FULL, (0, 4, 8), sample.clip.num_frames)
    rollout = score_rollouts(recipe_scoring(recipe), pool, [sample], [silent], [[]])[0]
    assert set(rollout.rewards.values()) == {0.0}


def test_boxes_far_outside_the_frame_prompt_the_segmenter_inside_it(
    tiny_recipe: Callable[..., Recipe], samples: list[Sample], pool: InProcessPool
) -> None:
    """1e39 is no number in float32: its masks would be NaN."""
    recipe, sample = box_recipe(tiny_recipe), samples[0]
    scoring = recipe_scoring(recipe)
    absurd = [[-1e300, -1e39, 1e39, 1e300], [1e39, 5, 2e39, 9]]
    episode = box_episode(recipe, sample, lambda e: answer(e.timestamps[1], absurd))
    rollout = score_rollouts(scoring, pool, [sample], [episode], [[None]])[0]
    assert 0 <= rollout.rewards["total"] <= 5
    predict_masks(scoring, pool, [rollout])
    width, height = sample.clip.width, sample.clip.height
    inside = [(0, 0, width, height), (width, 5 * height / SIDE, width, 9 * height / SIDE)]
    np.testing.assert_allclose(pool.requests[-1].boxes, inside)
    for request in pool.requests:
        assert all(0 <= x <= width and 0 <= y <= height for box in request.boxes for x, y in (box[:2], box[2:]))


def test_environment_rewards_and_masks_read_one_good_and_one_bad_box_alike(
    tiny_recipe: Callable[..., Recipe], samples: list[Sample], pool: InProcessPool
) -> None:
    recipe, sample = box_recipe(tiny_recipe), samples[0]
    scoring = recipe_scoring(recipe)
    good = box_episode(recipe, sample, true_answer(sample))
    episode = box_episode(recipe, sample, lambda e: true_answer(sample)(e).replace("]]", '], "x"]'))
    rollouts = score_rollouts(scoring, pool, [sample] * 2, [good, episode], [[None]] * 2)
    assert episode.stop is StopReason.ANSWERED and episode.turns[0].keyframe == good.turns[0].keyframe
    assert 1.0 < rollouts[1].rewards["veason_format"] < 2.0
    assert 0 < rollouts[1].rewards["veason_spatial"] < rollouts[0].rewards["veason_spatial"]
    predict_masks(scoring, pool, rollouts)
    assert pool.requests[-1].boxes == pool.requests[-2].boxes != []


def test_stamps_of_prompt_and_scoring_are_the_same_in_a_clip_of_several_frames_a_second(
    tiny_recipe: Callable[..., Recipe], samples: list[Sample], pool: InProcessPool
) -> None:
    recipe = box_recipe(tiny_recipe)
    sample = replace(samples[0], clip=replace(samples[0].clip, fps=2.0))
    scoring = recipe_scoring(recipe)
    episode = box_episode(recipe, sample, true_answer(sample))
    x = scoring.reward_input(sample, episode)  # type: ignore[attr-defined]
    assert [2 * t for t in x.timestamps] == list(episode.spatial_frames) and len(x.timestamps) > 2
    rollout = score_rollouts(scoring, pool, [sample], [episode], [[None]])[0]
    assert rollout.rewards["veason_keyframe"] == 1.0 and rollout.rewards["veason_spatial"] == pytest.approx(1.0)
    assert pool.requests[-1].keyframe == episode.turns[0].keyframe


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
    ious = pool.score([request])[0].ious
    for t, (mask, iou) in enumerate(zip(masks, ious, strict=True)):
        assert mask is not None
        predicted, true = coco_mask.decode(mask).astype(bool), truth(sample).union(t)
        union = (predicted | true).sum()
        assert iou == pytest.approx((predicted & true).sum() / union if union else 1.0, abs=1e-6)


def test_frame_truth_scales_and_marks_absence(samples: list[Sample]) -> None:
    shape = np.zeros((20, 40), dtype=np.uint8)
    shape[3:7, 10:21] = 1
    rle = coco_mask.encode(np.asfortranarray(shape))
    masklets = Masklets(20, 40, ((rle, None), (None, None)), 2)
    boxes, areas = frame_truth(masklets, [0, 1], 100)
    # x: 10..20 at 2.5 -> 25, 50; y: 3..6 at 5 -> 15, 30; rounded half up
    assert boxes == [[(25, 15, 50, 30), (0, 0, 0, 0)], [(0, 0, 0, 0), (0, 0, 0, 0)]]
    assert areas == [44, 0]
    assert frame_truth(masklets, [0], 50)[0][0][0] == (13, 8, 25, 15)  # 12.5 and 7.5 go up


@pytest.mark.parametrize("with_masks", [(), (0,)])
def test_answers_that_are_there_are_not_asked_for_again(
    tiny_recipe: Callable[..., Recipe], samples: list[Sample], pool: InProcessPool, with_masks: tuple[int, ...]
) -> None:
    """But where masks shall be held, which nobody could ask for before; the rewards are the same."""
    recipe, sample = box_recipe(tiny_recipe), samples[0]
    scoring = recipe_scoring(recipe)
    said, silent = (box_episode(recipe, sample, reply) for reply in (true_answer(sample), lambda _: "no"))
    states = [scoring.states([episode], {})[0] for episode in (said, said, silent)]
    given = ([sample] * 3, [said, said, silent], states)
    plain = score_rollouts(scoring, pool, *given, with_masks=with_masks)
    assert [(r.asked, r.ahead) for r in plain] == [(1, 0), (1, 0), (0, 0)]
    assert metrics_of(plain)["pool/hidden_share"] == 0.0
    requests = requests_of(scoring, sample, said, states[0])
    known = [dict(zip(requests, pool.score(list(requests.values())), strict=True))] * 2 + [{}]
    before = len(pool.requests)
    found = score_rollouts(scoring, pool, *given, with_masks=with_masks, known=known)
    assert len(pool.requests) - before == len(with_masks)
    assert [r.rewards for r in found] == [r.rewards for r in plain]
    assert [r.masks for r in found] == [r.masks for r in plain] and bool(found[0].masks) == bool(with_masks)
    assert metrics_of(found)["pool/hidden_share"] == (0.5 if with_masks else 1.0)
