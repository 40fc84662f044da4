"""Rewards of propagated masks are evaluation's own J&F, for both kinds of answers, with a real tiny SAM 2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewards.compose import VEASON_REWARDS, VIDEOSEG_O3_REWARDS
from rewards.metrics import score_clip
from rewards.truth import truth
from rollout.environments.single_turn_boxes import SingleTurnBoxes
from rollout.errors import DataError, RecipeError
from rollout.frames import evenly_spaced
from rollout.types import Episode, Sample, StopReason
from tests.verl_ext.batches import ANSWER, SELECT
from tests.verl_ext.dialogues import InProcessPool, answer, box_episode, box_recipe, seg_episode, true_answer
from verl_ext.recipe import Recipe, load_recipe
from verl_ext.reinforce.held_out import held_out_metrics, union_rles
from verl_ext.run.sources import load_samples
from verl_ext.scoring.rollouts import Rollout, failed_rollout, metrics_of, predict_masks, recipe_scoring, score_rollouts
from verl_ext.scoring.seg import ScoredInPass

ROOT = Path(__file__).parents[3]
WEIGHTS = {"propagated_iou": 1.0, "propagated_jf": 2.0, "n_acc": 1.0, "t_acc": 1.0}
NO_BOX = answer(0, [])
Make = Callable[..., Recipe]


def state(seed: int) -> Any:
    return np.random.default_rng(seed).normal(size=32).astype(np.float32)


def with_propagation(recipe: Recipe, form: str = "exact", frames: int | None = None) -> Recipe:
    recipe.rewards.weights = {**recipe.rewards.weights, **WEIGHTS}
    recipe.rewards.propagation.form, recipe.rewards.propagation.frames = form, frames  # type: ignore[assignment]
    return recipe


@pytest.fixture(scope="session")
def absent(tiny_recipe: Make) -> Sample:
    """An expression without a target."""
    return next(s for s in load_samples(tiny_recipe("grpo")) if not s.expression.anno_ids)


def dialogues(tiny_recipe: Make, sample: Sample, kind: str) -> tuple[Recipe, list[Episode], list[list[Any]]]:
    """Two that draw something, one that answers nothing, one that says nothing readable."""
    if kind == "seg":
        recipe = tiny_recipe("grpo")
        replies = [[SELECT, ANSWER], [ANSWER], [ANSWER.replace("[SEG]", "nothing")], ["no tags"]]
        episodes = [seg_episode(recipe, sample, texts) for texts in replies]
        return recipe, episodes, [[None, state(0)], [state(1)], [None], [None]]
    recipe = box_recipe(tiny_recipe)
    says: Sequence[Callable[[SingleTurnBoxes], str]] = (
        true_answer(sample) if truth(sample).areas().any() else lambda e: answer(e.timestamps[0], [[9, 9, 50, 60]]),
        lambda e: answer(e.timestamps[-1], [[20, 20, 60, 60], [5, 50, 40, 90]]),
        lambda e: answer(e.timestamps[0], []),
        lambda e: "no tags",
    )
    return recipe, [box_episode(recipe, sample, say) for say in says], [[None]] * 4


@pytest.mark.parametrize("kind", ["seg", "boxes"])
def test_exact_they_equal_evaluations_scores_of_the_same_masks(
    tiny_recipe: Make, samples: list[Sample], absent: Sample, pool: InProcessPool, kind: str
) -> None:
    drawn = []
    for sample in (samples[0], samples[-1], absent):
        recipe, episodes, states = dialogues(tiny_recipe, sample, kind)
        scoring = recipe_scoring(with_propagation(recipe))
        rollouts = score_rollouts(scoring, pool, [sample] * 4, episodes, states)
        masks = predict_masks(scoring, pool, rollouts)
        for rollout, predicted in list(zip(rollouts, masks, strict=True))[:3]:
            expected = score_clip(list(predicted), union_rles(truth(sample)))
            assert rollout.rewards["propagated_iou"] == pytest.approx(float(expected.j.mean()), abs=1e-12)
            jf = float(expected.j.mean() + expected.f.mean()) / 2
            assert rollout.rewards["propagated_jf"] == pytest.approx(jf, abs=1e-12)
            assert 100 * jf == pytest.approx(held_out_metrics([rollout], [predicted])["val/jf"])
            drawn.append(bool(expected.pred_visible.any()))
            assert rollout.rewards["t_acc"] == float(sample is not absent and drawn[-1])
            assert rollout.rewards["n_acc"] == float(sample is absent and not drawn[-1])
        assert all(rollouts[3].rewards[name] == 0.0 for name in WEIGHTS), "what says nothing answers nothing"
    assert any(drawn) and not all(drawn)


@pytest.mark.parametrize("kind", ["seg", "boxes"])
def test_no_answer_mask_is_in_full_right_without_a_target_and_a_mask_costs(
    tiny_recipe: Make, absent: Sample, pool: InProcessPool, kind: str
) -> None:
    recipe, episodes, states = dialogues(tiny_recipe, absent, kind)
    rollouts = score_rollouts(recipe_scoring(with_propagation(recipe)), pool, [absent] * 4, episodes, states)
    right = [r.rewards["propagated_jf"] for r in rollouts]
    assert right[2] == rollouts[2].rewards["propagated_iou"] == 1.0 and right[3] == 0.0
    assert rollouts[2].rewards["n_acc"] == 1.0 and rollouts[2].answers == {"n_acc": 1.0}
    for wrong in (r for r in rollouts[:2] if r.answers == {"n_acc": 0.0}):
        assert wrong.rewards["propagated_jf"] < 1.0 and wrong.rewards["n_acc"] == 0.0
    assert any(r.answers == {"n_acc": 0.0} for r in rollouts[:2])


@pytest.mark.parametrize("kind", ["seg", "boxes"])
def test_bounded_the_segmenter_sees_the_judged_frames_and_the_keyframe(
    tiny_recipe: Make, samples: list[Sample], pool: InProcessPool, kind: str
) -> None:
    sample = samples[0]
    recipe, episodes, states = dialogues(tiny_recipe, sample, kind)
    judged = evenly_spaced(0, sample.clip.num_frames - 1, 4)
    for form, seen in (("bounded", None), ("exact", list(range(sample.clip.num_frames)))):
        scoring = recipe_scoring(with_propagation(recipe, form, 4))
        for episode, turns in list(zip(episodes, states, strict=True))[:2]:
            asked = scoring.propagation_request(sample, episode, turns)
            whole = scoring.mask_request(sample, episode, turns)
            assert asked is not None and list(asked.judged) == judged  # type: ignore[union-attr]
            assert list(asked.video) == (seen or sorted({*judged, whole.keyframe}))  # type: ignore[union-attr]
            assert asked.keyframe == whole.keyframe and not asked.with_masks  # type: ignore[union-attr]
    rollouts = score_rollouts(scoring, pool, [sample] * 4, episodes, states)
    assert 0 < rollouts[0].ious["propagated"] == pytest.approx(rollouts[0].rewards["propagated_iou"])


@pytest.mark.parametrize("frames", [1, 2, 16])
@pytest.mark.parametrize("form", ["exact", "bounded"])
def test_a_clip_of_one_frame_is_its_own_propagation(
    tiny_recipe: Make, samples: list[Sample], pool: InProcessPool, form: str, frames: int
) -> None:
    sample = samples[0]
    masklets = truth(sample)
    t = int(np.argmax(masklets.areas()))
    one = replace(masklets, rles=tuple((rles[t],) for rles in masklets.rles), num_frames=1)
    clip = replace(sample.clip, frames=(sample.clip.frames[t],), times=())
    still = replace(sample, clip=clip, masklets=one, expression=replace(sample.expression, legible=()))
    recipe = with_propagation(tiny_recipe("grpo"), form, frames)
    episode = seg_episode(recipe, still, [ANSWER])
    (rollout,) = score_rollouts(recipe_scoring(recipe), pool, [still], [episode], [[state(0)]])
    (mask,) = predict_masks(recipe_scoring(recipe), pool, [rollout])
    expected = score_clip(list(mask), union_rles(one))
    assert rollout.rewards["propagated_iou"] == pytest.approx(float(expected.j[0]))


def test_nothing_is_propagated_unless_a_reward_asks(tiny_recipe: Make, samples: list[Sample]) -> None:
    for kind in ("seg", "boxes"):
        recipe, episodes, states = dialogues(tiny_recipe, samples[0], kind)
        scoring = recipe_scoring(recipe)
        assert [scoring.propagation_request(samples[0], e, s) for e, s in zip(episodes, states, strict=True)] == [
            None
        ] * 4


def test_a_dialogue_that_raised_earns_nothing_of_them(tiny_recipe: Make, absent: Sample) -> None:
    for recipe in (tiny_recipe("grpo"), box_recipe(tiny_recipe)):
        rollout = failed_rollout(recipe_scoring(with_propagation(recipe)), absent)
        assert all(rollout.rewards[name] == 0.0 for name in WEIGHTS)


def test_metrics_are_those_of_the_expressions_that_have_them(samples: list[Sample]) -> None:
    def rollout(answers: dict[str, float]) -> Rollout:
        return Rollout(samples[0], Episode([], StopReason.ANSWERED, (), 12), [], {"total": 0.0}, answers=answers)

    found = metrics_of([rollout({"n_acc": 1.0}), rollout({"n_acc": 0.0}), rollout({"t_acc": 1.0}), rollout({})], "val/")
    assert found["val/answers/n_acc"] == 0.5 and found["val/answers/t_acc"] == 1.0
    assert "answers/n_acc" not in metrics_of([rollout({})])


def test_held_out_metrics_tell_who_is_recognised_as_having_none(samples: list[Sample], absent: Sample) -> None:
    rollouts = [
        Rollout(s, Episode([], StopReason.ANSWERED, (), s.clip.num_frames), []) for s in (samples[0], absent, absent)
    ]
    full = union_rles(truth(samples[0]))
    nothing: list[Any] = [None] * absent.clip.num_frames
    found = held_out_metrics(rollouts, [full, nothing, full])
    assert found["val/t_acc"] == 1.0 and found["val/n_acc"] == 0.5
    assert held_out_metrics(rollouts[1:2], [None])["val/n_acc"] == 0.0, "a dialogue that failed"


def test_scores_of_the_log_prob_pass_leave_propagation_to_the_pool(
    tiny_recipe: Make, samples: list[Sample], pool: InProcessPool
) -> None:
    sample, recipe = samples[0], with_propagation(tiny_recipe("grpo"))
    scoring = recipe_scoring(recipe)
    episodes = [seg_episode(recipe, sample, [ANSWER]), seg_episode(recipe, sample, ["no tags"])]
    states: list[list[Any]] = [[state(0)], [None]]
    by_pool = score_rollouts(scoring, pool, [sample] * 2, episodes, states)
    pool.requests.clear()
    decoded = pool.scorer.score([scoring.reward_request(sample, episodes[0], states[0])])[0]
    ious = [np.array([decoded.keyframe_ious[0], *decoded.video_ious[0]], np.float32), np.zeros(0, np.float32)]  # type: ignore[union-attr]
    in_pass = score_rollouts(scoring, ScoredInPass(episodes, ious, pool), [sample] * 2, episodes, states)
    assert [type(r).__name__ for r in pool.requests] == ["PropagateRequest"]
    for a, b in zip(in_pass, by_pool, strict=True):
        assert a.rewards == pytest.approx(b.rewards, abs=1e-5)


@pytest.mark.parametrize(
    ("path", "method"), [("videoseg_o3/grpo_2b", VIDEOSEG_O3_REWARDS), ("veason_r1/grpo_3b", VEASON_REWARDS)]
)
def test_recipes_have_them_as_an_option_and_the_published_ones_stay(path: str, method: tuple[str, ...]) -> None:
    plain = load_recipe(ROOT / f"recipes/{path}.yaml")
    assert plain.rewards.weights == dict.fromkeys(method, 1.0)
    on = load_recipe(ROOT / f"recipes/{path}_propagated.yaml")
    assert on.rewards.weights == {**plain.rewards.weights, "propagated_jf": 1.0, "n_acc": 0.5}
    assert (on.rewards.propagation.form, on.rewards.propagation.frames) == ("bounded", 16)


def test_propagation_that_bounds_nothing_or_serves_nobody_is_refused(tiny_recipe: Make) -> None:
    weighed = "rewards.weights.propagated_jf=1"
    with pytest.raises(RecipeError, match=r"rewards\.propagation\.frames: null with form: bounded bounds nothing"):
        tiny_recipe("grpo", weighed, "rewards.propagation.form=bounded")
    with pytest.raises(RecipeError, match="but no reward judges propagated masks"):
        tiny_recipe("grpo", "rewards.propagation.frames=8")
    with pytest.raises(RecipeError, match=r"rewards\.propagation\.frames: 0 is too small"):
        tiny_recipe("grpo", weighed, "rewards.propagation.frames=0")
    with pytest.raises(RecipeError, match=r"pool\.checkpoint: null, but rewards\.weights\.propagated_iou needs SAM 2"):
        load_recipe(
            ROOT / "recipes/veason_r1/grpo_3b.yaml",
            ["rewards.weights.veason_consistency=0", "rewards.weights.propagated_iou=1", "pool.checkpoint=null"],
        )


def test_box_runs_keep_expressions_without_a_target_only_if_told(tiny_recipe: Make) -> None:
    recipe = box_recipe(tiny_recipe)
    assert all(s.expression.anno_ids for s in load_samples(recipe))
    recipe.rollout.box_no_target = True
    assert any(not s.expression.anno_ids for s in load_samples(recipe))


@pytest.mark.parametrize("kind", ["seg", "boxes"])
def test_a_frame_that_nobody_was_shown_and_nobody_can_read_fails_its_clips_rollouts_alone(
    tiny_recipe: Make, samples: list[Sample], pool: InProcessPool, tmp_path: Path, kind: str
) -> None:
    sound, clip = samples[0], samples[-1].clip
    (tmp_path / "spoilt.jpg").write_bytes(b"no picture")
    recipe, episodes, states = dialogues(tiny_recipe, samples[-1], kind)
    unseen = next(t for t in range(clip.num_frames) if not any(t in turn.shown for e in episodes for turn in e.turns))
    frames = tuple(str(tmp_path / "spoilt.jpg") if t == unseen else f for t, f in enumerate(clip.frames))
    spoilt = replace(samples[-1], clip=replace(clip, name="spoilt", frames=frames))
    _, more, more_states = dialogues(tiny_recipe, sound, kind)
    scoring = recipe_scoring(with_propagation(recipe))
    given = ([*[spoilt] * 4, *[sound] * 4], [*episodes, *more], [*states, *more_states])
    with pytest.raises(DataError, match=r"spoilt"):
        score_rollouts(scoring, pool, *given)
    told: list[str] = []
    rollouts = score_rollouts(scoring, pool, *given, refused=lambda name, error: told.append(f"{name}: {error}"))
    assert [r.failed for r in rollouts] == [True] * 4 + [False] * 4
    assert told and all(spoilt.id in line and "spoilt" in line for line in told)
    assert len({r.rewards["total"] for r in rollouts[:4]}) == 1, "equal rewards: the group learns nothing"
    alone = score_rollouts(scoring, pool, *(part[4:] for part in given))
    assert [r.rewards for r in rollouts[4:]] == [r.rewards for r in alone]


def test_so_it_does_where_the_log_prob_pass_scores(
    tiny_recipe: Make, samples: list[Sample], pool: InProcessPool, tmp_path: Path
) -> None:
    """Its answers are those of all dialogues in their order; one at a time they still are their own."""
    sound, clip = samples[0], samples[-1].clip
    (tmp_path / "spoilt.jpg").write_bytes(b"no picture")
    recipe = with_propagation(tiny_recipe("grpo"))
    episodes = [seg_episode(recipe, s, [ANSWER]) for s in (samples[-1], sound)]
    unseen = next(t for t in range(clip.num_frames) if not any(t in turn.shown for turn in episodes[0].turns))
    frames = tuple(str(tmp_path / "spoilt.jpg") if t == unseen else f for t, f in enumerate(clip.frames))
    spoilt = replace(samples[-1], clip=replace(clip, name="spoilt", frames=frames))
    ious = [
        np.full(1 + len(e.spatial_frames), value, np.float32) for e, value in zip(episodes, (0.2, 0.7), strict=True)
    ]
    in_pass = ScoredInPass(episodes, ious, pool)
    told: list[str] = []
    given = ([spoilt, sound], episodes, [[state(0)], [state(1)]])
    lost, kept = score_rollouts(recipe_scoring(recipe), in_pass, *given, refused=lambda name, _: told.append(name))
    assert lost.failed and told == [spoilt.id]
    assert not kept.failed and kept.ious["keyframe"] == pytest.approx(0.7) and "propagated" in kept.ious
