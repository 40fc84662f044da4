"""A policy that says what it is told to, behind the handle of a policy worker, and a segmenter behind the pool's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import numpy as np

from eval.inference.dialogue import Dialogue, InferenceSettings
from eval.inference.worker import converse
from eval.results.failures import Failure
from rewards.segmenter import RequestScorer, Segmenter
from rollout.chat_format import ChatFormat
from rollout.environment import Environment
from rollout.episode import scripted
from rollout.errors import DataError, RecipeError
from rollout.types import Sample
from verl_ext.evaluation.backend import Backend
from verl_ext.tiny.tokenizer import train_tokenizer

SIDE, SHOWN = 112, 4
BOXES = InferenceSettings(
    environment="single_turn_boxes",
    environment_settings={"frames": SHOWN, "side": SIDE, "sampling": "evenly_spaced", "prompts": "brief"},
    max_tokens=2048,
    max_prompt_tokens=1024,
    max_response_tokens=1024,
    turn_length=256,
    images=SHOWN,
    backend=Backend(),
)
Say = Callable[[Sample], str]


def box_reply(timestamp: int, *boxes: Sequence[float]) -> str:
    body = json.dumps({"keyframe_timestamp": timestamp, "bbox_2d_list": [list(b) for b in boxes]})
    return f"<think>It is there.</think><answer>{body}</answer>"


def true_box(truth: Mapping[tuple[str, str], Sample]) -> Say:
    """The policy that knows: a tight box (in prompt pixels) at the sixth frame, the target's frame in every clip."""

    def say(sample: Sample) -> str:
        known = truth[sample.clip.name, sample.expression.id]
        assert known.masklets is not None
        rows, columns = np.nonzero(known.masklets.union(6))
        if not len(rows):
            return box_reply(6)
        across, down = SIDE / sample.clip.width, SIDE / sample.clip.height
        box = (columns.min() * across, rows.min() * down, columns.max() * across, rows.max() * down)
        return box_reply(6, [float(round(v, 2)) for v in box])

    return say


class ScriptedWorker:
    """Runs dialogues at once, through the very code that vLLM's worker runs."""

    pool: Any = None
    """The pool beside it, where a test wants to see what was asked."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.tokenizer = train_tokenizer(["find the disk 0 1 2 3 4 5 6 7 8 9"], merges=20, numbers=16)
        self.chat = ChatFormat.from_tokenizer(self.tokenizer, patch=14, merge=2)
        self.asked: list[str] = []

    def start(self) -> Future[Any]:
        raise AssertionError("nothing dies in these tests")

    def run(self, sample: dict[str, Any], settings: Mapping[str, Any] | None) -> Future[Any]:
        out: Future[Any] = Future()
        out.set_result(self.talk(sample, settings))
        return out

    def talk(
        self,
        given: dict[str, Any],
        settings: Mapping[str, Any] | None,
        watched: Callable[[Environment], Environment] = lambda environment: environment,
    ) -> Dialogue | Failure:
        assert given["masklets"] is None, "the policy's side must not see ground truth"
        sample = Sample.from_dict(given)
        self.asked.append(sample.id)
        policy = scripted(SimpleNamespace(tokenizer=self.tokenizer, chat=self.chat), [self.say(sample)])  # type: ignore[arg-type]
        try:
            told = converse(sample, BOXES, settings, self.tokenizer, self.chat, policy, watched)
            episode, conversation = asyncio.run(told)
        except (DataError, RecipeError) as error:
            return Failure(str(error), "data" if isinstance(error, DataError) else "dialogue")
        return Dialogue(episode, [None] * len(episode.turns), sum(conversation.loss_mask))

    def kill(self) -> None: ...


class LocalPool:
    """What a pool's actor does, in this process."""

    restarts = 0

    def __init__(self, segmenter: Segmenter) -> None:
        self.scorer = RequestScorer(segmenter)
        self.calls: list[list[Any]] = []

    def submit(self, requests: Sequence[Any]) -> list[Future[Any]]:
        self.calls.append(list(requests))
        futures: list[Future[Any]] = [Future() for _ in requests]
        for future, answer in zip(futures, self.scorer.score(requests), strict=True):
            future.set_exception(answer) if isinstance(answer, Exception) else future.set_result(answer)
        return futures
