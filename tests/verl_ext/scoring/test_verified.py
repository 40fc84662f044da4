"""Scoring of verified dialogues: what stands is drawn and rewarded, and the change is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewards import RewardInput, compute_rewards
from rewards.metrics import score_clip
from rewards.pool.drawing import drawer
from rewards.segmenter.types import BoxRequest, PropagateRequest, SegRequest
from rewards.truth import truth
from rewards.types import PropagatedScores, Verification
from rollout.environment import make_environment
from rollout.errors import ProtocolError, RecipeError
from rollout.types import Action, Episode, Grounding, Sample, StopReason, Turn, Verdict
from rollout.verification import MasksWanted, first_answer
from tests.verl_ext.batches import ANSWER, SELECT
from tests.verl_ext.dialogues import SIDE, InProcessPool, answer, box_recipe, true_answer
from verl_ext.recipe import Recipe, load_recipe
from verl_ext.recipe.rollout_settings import environment_of
from verl_ext.reinforce.held_out import union_rles
from verl_ext.run.verl_config import images_per_dialogue
from verl_ext.scoring.rollouts import (
    Rollout,
    episode_from_dict,
    metrics_of,
    predict_masks,
    recipe_scoring,
    score_rollouts,
    scoring_of,
)
from verl_ext.scoring.seg import ScoredInPass, states_by_turn
from verl_ext.scoring.verified import VerifiedScoring, drawn_state_metrics

ROOT = Path(__file__).parents[3]
CONFIRM, TAKE_BACK = "<think>a</think><answer>confirm</answer>", "<think>a</think><answer>no target</answer>"
Make = Callable[..., Recipe]


@pytest.fixture
def recipe(tiny_recipe: Make) -> Recipe:
    out = box_recipe(tiny_recipe)
    out.rollout.environment = "verified_boxes"
    out.rewards.weights |= {"propagated_jf": 1.0, "verification_change": 1.0}
    return out


def talked(recipe: Recipe, sample: Sample, pool: InProcessPool, *replies: Any, states: Any = None) -> Episode:
    """A dialogue whose masks the pool draws while it waits, as a worker has them drawn."""
    name, settings = environment_of(recipe)
    environment: Any = make_environment(name, sample, settings, 28 if recipe.has_boxes else 32)
    scoring = scoring_of(name, settings, {})

    async def ask(request: Any) -> Any:
        return pool.score([request])[0]

    async def known(episode: Episode, conversation: Any) -> list[Any]:
        return list((states or [None] * 9)[: len(episode.turns)])

    draw = drawer(scoring, sample, ask, known)
    outcome: Any = environment.begin()
    for reply in replies:
        text = reply(environment.inner) if callable(reply) else reply
        outcome = environment.step(text)
        if isinstance(outcome, MasksWanted):
            answered = environment.episode(StopReason.ANSWERED)
            outcome = environment.see(asyncio.run(draw(answered, None, outcome.frames)))  # type: ignore[arg-type]
    stop = outcome if isinstance(outcome, StopReason) else StopReason.CONTEXT_FULL
    return environment.episode(stop)  # type: ignore[no-any-return]


def worse(environment: Any) -> str:
    """A box in a corner."""
    return answer(environment.timestamps[0], [[0, 0, 6, 6]])


def jf_of(sample: Sample, masks: Any) -> float:
    found = score_clip(list(masks), union_rles(truth(sample)))
    return float(found.j.mean() + found.f.mean()) / 2


def test_masks_for_a_dialogue_are_drawn_without_ground_truth(
    recipe: Recipe, samples: list[Sample], pool: InProcessPool
) -> None:
    sample = samples[0]
    episode = talked(recipe, sample, pool, true_answer(sample), CONFIRM)
    (request,) = pool.requests
    assert isinstance(request, BoxRequest) and request.masklets is None and not request.judged
    assert set(episode.turns[-1].shown) <= set(request.frames) and request.keyframe in request.frames
    blind = talked(recipe, replace(sample, masklets=truth(samples[-1])), pool, lambda e: episode.texts[0], CONFIRM)
    assert blind.turns[-1].shown == episode.turns[-1].shown and len(pool.requests) == 2
    assert pool.requests[0] == pool.requests[1], "the same request whatever the truth is"


def test_the_answer_that_stands_is_drawn_and_rewarded(
    recipe: Recipe, samples: list[Sample], pool: InProcessPool
) -> None:
    sample, scoring = samples[0], recipe_scoring(recipe)
    assert isinstance(scoring, VerifiedScoring)
    good, bad = true_answer(sample), worse
    said = [(bad, CONFIRM), (bad, good), (good, bad), (good, TAKE_BACK), (good, "mumble"), (good,)]
    episodes = [talked(recipe, sample, pool, *replies) for replies in said]
    states = [[None] * len(e.turns) for e in episodes]
    rollouts = score_rollouts(scoring, pool, [sample] * 6, episodes, states)
    masks = predict_masks(scoring, pool, rollouts)
    scores = [jf_of(sample, m) for m in masks]
    assert [r.rewards["propagated_jf"] for r in rollouts] == pytest.approx(scores)
    kept, better, later, taken, unread, unseen = (r.rewards["verification_change"] for r in rollouts)
    assert scores[1] == scores[4] == scores[5] and scores[2] == scores[0], "the good answer, and the bad one"
    for value, before, after in ((better, 0, 1), (later, 1, 0), (taken, 1, 3)):
        change = scores[after] - scores[before]
        assert value == pytest.approx(float(np.clip(2 * change, -1, 1)) if abs(change) > 0.02 else 0.0)
    assert taken != 0.0 and kept == 0.0 and unread == -1.0 and unseen == 0.0
    absent = 1 - truth(sample).existence().mean()
    assert scores[3] == pytest.approx(absent), "no mask in any frame"
    assert rollouts[1].rewards["veason_spatial"] == rollouts[0].rewards["veason_spatial"], "of the first answer"
    assert [r.answers["t_acc"] for r in rollouts] == [1.0, 1.0, 1.0, 0.0, 1.0, 1.0]
    found = metrics_of(rollouts)
    assert found["verdict/corrected"] == 0.4 and found["verdict/confirmed"] == found["verdict/unread"] == 0.2


def test_a_seg_dialogue_is_verified_by_its_states(
    tiny_recipe: Make, samples: list[Sample], pool: InProcessPool
) -> None:
    """As evaluation does it, where the policy is at hand in mid-dialogue."""
    recipe, sample = tiny_recipe("grpo"), samples[0]
    recipe.rollout.environment = "verified_masks"
    recipe.rewards.weights |= {"propagated_jf": 1.0, "verification_change": 1.0}
    state = [np.random.default_rng(i).normal(size=32).astype(np.float32) for i in range(3)]
    scoring = recipe_scoring(recipe)
    drawn = []
    for last, verdict in ((ANSWER, Verdict.CORRECTED), (CONFIRM, Verdict.CONFIRMED), (TAKE_BACK, Verdict.NO_TARGET)):
        episode = talked(recipe, sample, pool, SELECT, ANSWER, last, states=state)
        assert episode.verdict is verdict
        asked = pool.requests[-1]
        assert isinstance(asked, PropagateRequest) and asked.state is state[1] and asked.masklets is None
        for i, turn in enumerate(episode.turns):
            turn.seg_positions = [9 * i] if "[SEG]" in turn.text else []
        states = [s if t.seg_positions else None for s, t in zip(state, episode.turns, strict=True)]
        request = scoring.mask_request(sample, episode, states)
        drawn.append(request.state)  # type: ignore[union-attr]
        (rollout,) = score_rollouts(scoring, pool, [sample], [episode], [states])
        (masks,) = predict_masks(scoring, pool, [rollout])
        assert rollout.rewards["propagated_jf"] == pytest.approx(jf_of(sample, masks))
        assert rollout.rewards["strict_format"] == 1.0, "the form of the dialogue that is verified"
    assert drawn[0] is not None and np.array_equal(drawn[0], state[2]) and np.array_equal(drawn[1], state[1])
    assert drawn[2] is None


def test_masks_of_seg_for_a_dialogue_are_drawn_without_ground_truth(
    tiny_recipe: Make, samples: list[Sample], pool: InProcessPool
) -> None:
    """Dialogues that differ in their truth alone ask for the same, and are answered and shown the same."""
    recipe, sample = tiny_recipe("grpo"), samples[0]
    recipe.rollout.environment = "verified_masks"
    state = [np.random.default_rng(i).normal(size=32).astype(np.float32) for i in range(3)]
    shown = []
    for masklets in (truth(sample), truth(samples[-1]), None):
        asked = replace(sample, masklets=masklets)
        episode = talked(recipe, asked, pool, SELECT, ANSWER, CONFIRM, states=state)
        request = pool.requests[-1]
        assert isinstance(request, PropagateRequest) and request.masklets is None and not request.judged
        assert request.state is state[1], "the newest of the answer"
        shown.append((request.clip, list(request.frames or ()), request.keyframe, episode.turns[-1].shown))
    assert len(pool.requests) == 3 and shown[0] == shown[1] == shown[2]


def verified(sample: Sample, verdict: Verdict, last: str) -> Episode:
    """An answer of several ``[SEG]`` in its second turn, and a turn after it that wrote some, too."""
    texts = [SELECT, ANSWER, last]
    turns = [Turn(t, Action.ANSWER, Grounding(2, 8, 5), 5, shown=(0,)) for t in texts]
    turns[0].action = Action.SELECT
    for turn, positions in zip(turns, ([3], [20, 21, 22], [40, 41]), strict=True):
        turn.seg_positions = positions
    return Episode(turns, StopReason.ANSWERED, (0, 11), sample.clip.num_frames, verdict)


@pytest.mark.parametrize("verdict", [Verdict.CONFIRMED, Verdict.CORRECTED, Verdict.NO_TARGET, Verdict.UNREAD])
def test_the_pass_and_the_pool_score_the_answer_that_was_shown(
    tiny_recipe: Make, samples: list[Sample], pool: InProcessPool, verdict: Verdict
) -> None:
    recipe, sample = tiny_recipe("grpo"), samples[0]
    recipe.rollout.environment = "verified_masks"
    recipe.rewards.weights |= {"propagated_jf": 1.0, "verification_change": 1.0}
    scoring, episode = recipe_scoring(recipe), verified(sample, verdict, ANSWER)
    every = np.random.default_rng(0).normal(size=(6, 32)).astype(np.float32) * 3
    states = states_by_turn(episode, every)
    assert [None if s is None else s.tolist() for s in states] == [every[i].tolist() for i in (0, 3, 5)]
    shown = states_by_turn(first_answer(episode), every[:4])
    request = scoring.mask_request(sample, first_answer(episode), shown)
    assert np.array_equal(request.state, every[3]), "what the policy was shown, and what is scored"  # type: ignore[union-attr,arg-type]
    stands = scoring.mask_request(sample, episode, states).state  # type: ignore[union-attr]
    expected = {Verdict.CORRECTED: every[5], Verdict.NO_TARGET: None}.get(verdict, every[3])
    assert np.array_equal(stands, expected) if expected is not None else stands is None  # type: ignore[arg-type]

    keys = [t.keyframe for t in episode.turns for _ in t.seg_positions]
    one_each = [SegRequest(sample.clip, truth(sample), [0, 11], [e], [k]) for e, k in zip(every, keys, strict=True)]
    ious = [[a.keyframe_ious[0], *a.video_ious[0]] for a in pool.score(one_each)]
    in_pass = ScoredInPass([episode], [np.array(ious, dtype=np.float32).reshape(-1)], pool)
    (mine,) = score_rollouts(scoring, in_pass, [sample], [episode], [states])
    (theirs,) = score_rollouts(scoring, pool, [sample], [episode], [states])
    assert mine.rewards == pytest.approx(theirs.rewards, abs=1e-5) and mine.ious == pytest.approx(theirs.ious, abs=1e-5)
    assert len({tuple(row) for row in ious}) > 3, "another token would have other numbers"
    score = {name: mine.rewards[name] for name in ("strict_format", "mask_iou", "keyframe_hit")}
    plain = tiny_recipe("grpo")
    (alone,) = score_rollouts(recipe_scoring(plain), pool, [sample], [first_answer(episode)], [states[:2]])
    assert score == pytest.approx({name: alone.rewards[name] for name in score}), "as without the turn"


def test_what_was_drawn_is_compared_with_what_is_scored(samples: list[Sample]) -> None:
    episode = verified(samples[0], Verdict.CORRECTED, ANSWER)
    near, other = np.array([3.0, 4.0], dtype=np.float32), np.array([0.0, 9.0], dtype=np.float32)
    states = [None, near, other]
    found = drawn_state_metrics([episode] * 3, [states] * 3, [near, near + np.float32(0.3), None])
    assert found["rollout/masks_shown"] == pytest.approx(2 / 3)
    assert found["rollout/drawn_state_gap_max"] == pytest.approx(0.3 * 2**0.5 / 5, rel=1e-4)
    silent = Episode([], StopReason.CONTEXT_FULL, (), 12)
    assert drawn_state_metrics([silent], [[]], [near]) == {"rollout/masks_shown": 0.0}, "a copy that fills the batch"


@pytest.mark.parametrize("name", ["verified_masks", "combined_answers", "verified_combined"])
def test_legible_frames_are_asked_for_in_every_environment_of_seg(tiny_recipe: Make, name: str) -> None:
    recipe = tiny_recipe("grpo")
    recipe.rollout.environment, recipe.rewards.existence = name, "legible"
    dialogue: Any = getattr(recipe_scoring(recipe), "inner", recipe_scoring(recipe))
    assert getattr(dialogue, "seg", dialogue).existence == "legible"


@pytest.mark.parametrize(
    ("before", "after", "verdict", "value"),
    [
        (0.2, 0.6, Verdict.CORRECTED, 0.8),
        (0.1, 0.9, Verdict.CORRECTED, 1.0),
        (0.6, 0.2, Verdict.CORRECTED, -0.8),
        (0.9, 0.0, Verdict.NO_TARGET, -1.0),
        (0.5, 0.51, Verdict.CORRECTED, 0.0),
        (0.8, 0.8, Verdict.CONFIRMED, 0.25),
        (0.3, 0.3, Verdict.CONFIRMED, 0.0),
        (0.8, 0.8, Verdict.UNREAD, -1.0),
        (0.8, 0.8, None, 0.0),
    ],
)
def test_the_reward_of_the_change(before: float, after: float, verdict: Verdict | None, value: float) -> None:
    first, last = (PropagatedScores([x], [x], [True]) for x in (before, after))
    x = RewardInput(["a"], [1], [[1.0]], [1.0], propagated=last, verification=Verification(first, verdict))
    assert compute_rewards(x, ["verification_change"])["total"] == pytest.approx(value)
    with pytest.raises(ProtocolError, match="needs both answers' masks"):
        compute_rewards(replace(x, verification=None), ["verification_change"])


def test_a_verdict_survives_the_journey(recipe: Recipe, samples: list[Sample], pool: InProcessPool) -> None:
    episode = talked(recipe, samples[0], pool, true_answer(samples[0]), CONFIRM)
    assert episode_from_dict(asdict(episode)) == episode
    plain = asdict(replace(episode, verdict=None))
    del plain["verdict"]
    assert episode_from_dict(plain).verdict is None


def test_recipes_say_what_cannot_be_verified() -> None:
    path = ROOT / "recipes/veason_r1/grpo_3b_verified.yaml"
    recipe = load_recipe(path)
    assert recipe.verifies and environment_of(recipe)[1]["verify_frames"] == 3
    assert images_per_dialogue(recipe) == images_per_dialogue(load_recipe(path.with_name("grpo_3b.yaml"))) + 4
    with pytest.raises(RecipeError, match=r"pool\.checkpoint: null, but verified_boxes shows the policy its own masks"):
        load_recipe(path, ["pool.checkpoint=null"])
    with pytest.raises(RecipeError, match="needs a turn in which the policy sees its own masks"):
        load_recipe(path, ["rollout.environment=single_turn_boxes"])
    for name, plain in (("grpo_2b_verified", "grpo_2b"), ("grpo_2b_combined_verified", "grpo_2b_combined")):
        file = ROOT / f"recipes/videoseg_o3/{name}.yaml"
        masks = load_recipe(file)
        assert masks.verifies and masks.pool.checkpoint is None, "the policy's own segmenter draws"
        assert images_per_dialogue(masks) == images_per_dialogue(load_recipe(file.with_name(f"{plain}.yaml"))) + 4
        with pytest.raises(RecipeError, match=r"form: state with verified_\w+: states are drawn after the dialogue"):
            load_recipe(file, ["objective.calibration.form=state", "objective.calibration.sigma=0.3"])
    with pytest.raises(RecipeError, match=r"rollout\.verify_frames: -1 is too small"):
        load_recipe(path, ["rollout.verify_frames=-1"])


def test_a_dialogue_without_a_turn_is_scored_like_an_empty_reply(recipe: Recipe, samples: list[Sample]) -> None:
    silent = Episode([], StopReason.CONTEXT_FULL, (), samples[0].clip.num_frames)
    rewards = recipe_scoring(recipe).rewards(samples[0], silent, None)
    assert rewards["propagated_jf"] == rewards["verification_change"] == 0.0
    assert SIDE and Rollout(samples[0], silent, []).answers == {}
