"""Scoring of answers with boxes and ``[SEG]``, with a real tiny SAM 2; what of them drew is on file."""

from __future__ import annotations

import json
import queue
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.inference.dialogue import Dialogue
from eval.inference.pipeline import Pipeline
from eval.results.failures import FailuresFile
from eval.results.results_file import ResultsFile, read_results
from rewards.metrics import score_clip
from rewards.segmenter.types import BoxRequest, DrawnBy
from rewards.truth import truth
from rollout.environment import make_environment
from rollout.errors import RecipeError
from rollout.types import Episode, Sample, StopReason
from tests.eval.scripted import LocalPool
from tests.verl_ext.dialogues import SIDE, InProcessPool
from verl_ext.recipe import Recipe, load_recipe
from verl_ext.recipe.asking import answers_of_policy, record_prompts
from verl_ext.recipe.rollout_settings import environment_of
from verl_ext.reinforce.held_out import union_rles
from verl_ext.scoring.boxes import frame_truth
from verl_ext.scoring.combined import CombinedScoring
from verl_ext.scoring.rollouts import predict_masks, recipe_scoring, score_rollouts

ROOT = Path(__file__).parents[3]
WEIGHTS = ("combined_format", "veason_keyframe", "veason_spatial", "mask_iou", "keyframe_iou", "propagated_jf")
NOT_OURS = ("strict_format", "step_format", "interval", "keyframe_hit", "keyframe_vs_mask", "progressive_keyframe")
Make = Callable[..., Recipe]


@pytest.fixture(scope="session")
def recipe(tiny_recipe: Make) -> Recipe:
    weights = dict.fromkeys(WEIGHTS, 1) | dict.fromkeys(NOT_OURS, 0)
    out = tiny_recipe(
        "grpo",
        "rollout.environment=combined_answers",
        "rollout.max_turns=1",
        "rollout.box_side=224",
        "rollout.box_frames=4",
        *(f"rewards.weights.{name}={weight}" for name, weight in weights.items()),
    )
    out.rollout.box_side = SIDE
    return out


def said(recipe: Recipe, sample: Sample, boxes: bool = True, seg: bool = True) -> Episode:
    """The policy that knows the boxes."""
    environment: Any = make_environment(*environment_of(recipe)[:1], sample, environment_of(recipe)[1], 28)
    environment.begin()
    areas = truth(sample).areas()
    frame = max(environment.frames, key=lambda t: int(areas[t]))
    found = [b for b in frame_truth(truth(sample), [frame], SIDE)[0][0] if any(b)] if boxes else []
    second = environment.timestamps[environment.frames.index(frame)]
    body = json.dumps({"keyframe_timestamp": second, "bbox_2d_list": found, "mask": "[SEG]" if seg else None})
    episode: Episode = environment.episode(environment.step(f"<think>x</think><answer>{body}</answer>"))
    episode.turns[0].seg_positions = [9] if seg else []
    return episode


def state(seed: int) -> Any:
    return np.random.default_rng(seed).normal(size=32).astype(np.float32)


def test_both_prompt_the_segmenter_and_each_is_rewarded(
    recipe: Recipe, samples: list[Sample], pool: InProcessPool
) -> None:
    sample, scoring = samples[0], recipe_scoring(recipe)
    assert isinstance(scoring, CombinedScoring)
    episodes = [said(recipe, sample, *there) for there in ((True, True), (False, True), (True, False), (False, False))]
    states = [[state(0)], [state(0)], [None], [None]]
    rollouts = score_rollouts(scoring, pool, [sample] * 4, episodes, states)
    masks = predict_masks(scoring, pool, rollouts)
    for rollout, predicted in zip(rollouts, masks, strict=True):
        expected = score_clip(list(predicted), union_rles(truth(sample)))
        assert rollout.rewards["propagated_jf"] == pytest.approx(float(expected.j.mean() + expected.f.mean()) / 2)
    both, seg, boxes, none = (r.rewards for r in rollouts)
    assert both["combined_format"] == none["combined_format"] == 3.0 and seg["combined_format"] == 2.0
    assert both["veason_spatial"] == boxes["veason_spatial"] == pytest.approx(1.0) and seg["veason_spatial"] == 0.0
    assert both["keyframe_iou"] == seg["keyframe_iou"] and boxes["mask_iou"] <= seg["mask_iou"]
    asked = scoring.mask_request(sample, episodes[0], states[0])
    assert isinstance(asked, BoxRequest) and asked.state is not None and len(asked.boxes) > 0
    assert asked.keyframe == episodes[0].turns[0].keyframe
    drew = [next(k for k, v in r.answers.items() if k.startswith("drawn_by_") and v) for r in rollouts]
    assert drew[0] in ("drawn_by_both", "drawn_by_boxes_against_seg")
    assert drew[1:] == ["drawn_by_seg", "drawn_by_boxes", "drawn_by_nothing"]


def test_a_reply_that_cannot_be_read_draws_its_seg_where_it_was_decoded(
    recipe: Recipe, samples: list[Sample], pool: InProcessPool
) -> None:
    sample, scoring = samples[0], recipe_scoring(recipe)
    environment: Any = make_environment("combined_answers", sample, environment_of(recipe)[1], 28)
    environment.begin()
    episode = environment.episode(environment.step("I give [SEG]"))
    episode.turns[0].seg_positions = [3]
    assert episode.stop is StopReason.BAD_ACTION
    asked = scoring.mask_request(sample, episode, [state(0)])
    assert asked.keyframe == episode.turns[0].keyframe and asked.boxes == [] and asked.state is not None  # type: ignore[union-attr]
    (rollout,) = score_rollouts(scoring, pool, [sample], [episode], [[state(0)]])
    assert rollout.rewards["combined_format"] == 0.0 and rollout.ious["propagated"] > 0
    silent = Episode([], StopReason.CONTEXT_FULL, (), sample.clip.num_frames)
    (nothing,) = score_rollouts(scoring, pool, [sample], [silent], [[]])
    assert nothing.rewards["propagated_jf"] == nothing.rewards["combined_format"] == 0.0


@pytest.mark.parametrize("boxes", [True, False])
def test_results_say_which_prompt_drew(
    recipe: Recipe, samples: list[Sample], pool: InProcessPool, tmp_path: Path, boxes: bool
) -> None:
    sample, scoring = samples[0], recipe_scoring(recipe)
    episode = said(recipe, sample, boxes, seg=True)
    local = LocalPool(pool.scorer.segmenter)
    with ResultsFile(tmp_path / "results.jsonl") as results, FailuresFile(tmp_path / "failed.jsonl") as failures:
        events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        stream = Pipeline(_Idle(), events, local, scoring, results, failures, rewards=scoring, limit=1)  # type: ignore[arg-type]
        stream._start(sample)
        stream._hear(replace(sample, masklets=None), Dialogue(episode, [state(0)], 5))
        while not events.empty():
            stream._take_event()
    (record,) = read_results(tmp_path / "results.jsonl")
    kinds = {DrawnBy.BOTH.value, DrawnBy.BOXES_AGAINST_SEG.value} if boxes else {DrawnBy.SEG.value}
    assert record.drawn_by in kinds and record.rewards is not None and 0 < record.rewards["propagated_jf"] < 1


class _Idle:
    """A fleet that nothing is sent to."""

    capacity, handles = 1, (None,)

    def submit(self, job: Any) -> None: ...


def test_the_recipe_stands_and_refuses_what_cannot_score_it() -> None:
    path = ROOT / "recipes/videoseg_o3/grpo_2b_combined.yaml"
    recipe = load_recipe(path)
    assert recipe.answers == "both" and recipe.rollout.max_turns == 1
    for name, said in (("interval", r"\[SEG\] dialogues"), ("veason_consistency", "box answers")):
        with pytest.raises(RecipeError, match=rf"rewards\.weights\.{name}: scores {said}, but rollout\.environment is"):
            load_recipe(path, [f"rewards.weights.{name}=1"])
    with pytest.raises(RecipeError, match=r"rollout\.max_turns: 2, but combined_answers answers in one turn"):
        load_recipe(path, ["rollout.max_turns=2", "rollout.turn_length=256"])
    with pytest.raises(RecipeError, match="replies in combined_answers hold both, but method veason_r1 scores boxes"):
        load_recipe(ROOT / "recipes/veason_r1/grpo_3b.yaml", ["rollout.environment=combined_answers"])


def test_a_policy_is_asked_again_as_it_was_trained(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "prompts.yaml").write_text(record_prompts(recipe))
    assert answers_of_policy(tmp_path, has_head=True) == "both"
    assert answers_of_policy(tmp_path, has_head=False) == "boxes"
    assert answers_of_policy(tmp_path / "other", has_head=True) == "masks"
