"""Dialogues with known contents on the tiny data, and the pool's code in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from rewards.segmenter import RequestScorer, Segmenter
from rollout.environments.keyframe_exploration import ExplorationSettings, KeyframeExploration
from rollout.environments.single_turn_boxes import BoxSettings, SingleTurnBoxes
from rollout.types import Episode, Sample, StopReason
from verl_ext.recipe import Recipe
from verl_ext.recipe.rollout_settings import environment_of
from verl_ext.scoring.boxes import frame_truth

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
