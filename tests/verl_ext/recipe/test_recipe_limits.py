"""The token limits of every shipped reinforcement recipe leave room for a dialogue that ends as it should."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from rollout import ChatFormat, Clip, Conversation, Expression, Masklets, Sample, StopReason
from rollout.environment import make_environment
from rollout.environments.single_turn_boxes import SingleTurnBoxes
from rollout.environments.verified import Verified
from rollout.episode import roll_out, scripted
from tests.rollout.helpers import build_tokenizer, turn
from verl_ext.recipe import load_recipe
from verl_ext.recipe.rollout_settings import conversation_limits, environment_of
from verl_ext.tiny.tokenizer import train_tokenizer

RECIPES = Path(__file__).parents[3] / "recipes"
GRPO = sorted(p for p in RECIPES.rglob("grpo*.yaml") if p.parent.name != "bases")
FRAMES, HEIGHT, WIDTH = 60, 720, 1280
WORDS = "segment low high of find key a dog x Step 1: Action: boxes "


@pytest.fixture(scope="module")
def sample() -> Sample:
    here = coco_mask.encode(np.ones((HEIGHT, WIDTH), dtype=np.uint8, order="F"))
    clip = Clip("dogs", tuple(f"{t}.jpg" for t in range(FRAMES)), HEIGHT, WIDTH)
    return Sample(clip, Expression("0", "a dog"), Masklets(HEIGHT, WIDTH, ((here,) * FRAMES,), FRAMES))


def longest(tokenizer: Any, limit: int, make: Callable[[str], str]) -> str:
    """``make(thinking)`` with as much thinking as makes at most ``limit`` tokens."""
    words = limit
    while len(tokenizer.encode(make(" x" * words), add_special_tokens=False)) > limit:
        words -= 1
    assert words > 0
    return make(" x" * words)


@pytest.mark.parametrize("path", GRPO, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_perfect_policy_answers_however_long_it_thinks(
    path: Path, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rollout.conversation.load_frame_resized", lambda *_: Image.new("RGB", (8, 8)))
    recipe = load_recipe(path)
    brief = recipe.policy.prompt_set == "brief"  # these go with a tokenizer that knows their words
    tokenizer = train_tokenizer([WORDS * 50 + turn("select", 1, 50, 20, " x" * 9) * 50]) if brief else build_tokenizer()
    chat = ChatFormat.from_tokenizer(tokenizer, patch=14 if recipe.method == "veason_r1" else 16)
    name, settings = environment_of(recipe)
    environment = make_environment(name, sample, settings, chat.factor)
    conversation = Conversation(tokenizer, chat, sample.clip, **conversation_limits(recipe))
    limit = recipe.rollout.turn_length - 2  # the closing token, and that of a cut reply
    dialogue = environment.inner if isinstance(environment, Verified) else environment
    if isinstance(dialogue, SingleTurnBoxes):
        answer = json.dumps({"keyframe_timestamp": dialogue.timestamps[0], "bbox_2d_list": [[1, 2, 300, 400]] * 4})
        said = [answer] if dialogue is environment else [answer, answer]  # the second corrects the first
        make = [lambda think, a=a: f"<think>{think}</think><answer>{a}</answer>" for a in said]  # type: ignore[misc]
        replies = [longest(tokenizer, limit, one) for one in make]
    else:
        corrected = [] if dialogue is environment else ["answer"]
        actions = ["select"] * (recipe.rollout.max_turns - 1) + ["answer", *corrected]
        replies = [longest(tokenizer, limit, lambda think, a=a: turn(a, 10, 50, 20, think)) for a in actions]  # type: ignore[misc]
    policy = scripted(conversation, replies)

    async def draw(answer: Any, conversation: Any, frames: Any) -> Any:
        assert sample.masklets is not None
        return {t: sample.masklets.rles[0][t] for t in frames}

    episode = asyncio.run(roll_out(environment, conversation, policy, {}, recipe.rollout.turn_length, draw))
    assert episode.stop is StopReason.ANSWERED and episode.texts == replies
    assert len(conversation.response_ids) <= recipe.rollout.response_length
