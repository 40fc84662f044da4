"""Whatever a policy says, an episode ends with a reason and a consistent conversation."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from rollout import (
    ChatFormat,
    Conversation,
    Environment,
    Episode,
    FramePart,
    Generated,
    Sample,
    StopReason,
    replay,
    roll_out,
)
from rollout.environments.keyframe_exploration import KeyframeExploration
from rollout.environments.single_turn_boxes import BoxSettings, SingleTurnBoxes
from tests.rollout.helpers import FACTOR, SETTINGS, turn

TURN_LENGTH = 200


@pytest.fixture(autouse=True)
def no_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels play no part here; reading them would be most of the time."""
    monkeypatch.setattr("rollout.conversation.load_frame_resized", lambda *_: object())


class RandomPolicy:
    """Says what ``draw`` draws, cut as an engine cuts it, and remembers how much it sampled."""

    def __init__(self, draw: Any) -> None:
        self.draw, self.sampled, self.calls = draw, 0, 0

    async def __call__(self, ids: list[int], images: list[Any], max_tokens: int, stops: list[int], _: Any) -> Generated:
        self.calls += 1
        out: list[int] = []
        for token in self.draw()[:max_tokens]:
            out.append(token)
            if token in stops:
                break
        self.sampled += len(out)
        return Generated(out, [-1.0] * len(out), "completed")  # verl calls every end "completed"


def check(episode: Episode, conversation: Conversation, policy: RandomPolicy) -> None:
    assert isinstance(episode.stop, StopReason)
    assert len(episode.turns) == policy.calls
    assert sum(conversation.response_mask) == policy.sampled
    conversation.check()
    assert len(conversation.images()) == len(conversation.grids)
    shown = [p.frame for m in conversation.messages for p in m.parts if isinstance(p, FramePart)]
    assert shown == [p.frame for p in conversation.frames] == [f for t in episode.turns for f in t.shown][: len(shown)]
    assert all(0 <= f < 12 for f in shown)
    assert [p for t in episode.turns for p in t.seg_positions] == conversation.seg_positions
    assert len(conversation.token_ids) <= conversation.max_tokens
    log_probs = conversation.response_log_probs
    assert log_probs == [-1.0 * m for m in conversation.response_mask]


def environments(sample: Sample) -> list[Environment]:
    boxes = BoxSettings(frames=3, side=64, sampling="evenly_spaced")
    return [KeyframeExploration(sample, SETTINGS, FACTOR), SingleTurnBoxes(sample, boxes, 32)]


def test_random_tokens(tokenizer: Any, chat: ChatFormat, sample: Sample) -> None:
    rng = np.random.default_rng(0)
    allowed = np.array([t for t in range(chat.vocab_size) if t not in chat.forbidden])
    stops = set()
    for i in range(60):
        policy = RandomPolicy(lambda: rng.choice(allowed, rng.integers(0, 2 * TURN_LENGTH)).tolist())
        environment = environments(sample)[i % 2]
        conversation = Conversation(tokenizer, chat, sample.clip, max_tokens=4096)
        episode = asyncio.run(roll_out(environment, conversation, policy, {}, TURN_LENGTH))
        check(episode, conversation, policy)
        stops.add(episode.stop)
    assert stops == {StopReason.BAD_ACTION, StopReason.LENGTH}


def test_damaged_replies(tokenizer: Any, chat: ChatFormat, sample: Sample) -> None:
    """Good replies with random numbers, some of them cut, spliced or with bytes changed."""
    rng = np.random.default_rng(1)

    def draw() -> list[int]:
        start, end, keyframe = (int(v) for v in rng.integers(-5, 20, 3))
        text = turn(str(rng.choice(["select", "select", "answer"])), start, end, keyframe)
        damage = rng.integers(0, 6)
        if damage == 0:
            at = int(rng.integers(0, len(text)))
            text = text[:at] + chr(int(rng.integers(1, 2000))) + text[at + 1 :]
        elif damage == 1:
            text = text[: int(rng.integers(0, len(text)))]
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return [*ids, chat.im_end] if rng.random() < 0.9 else ids

    stops = set()
    for _ in range(250):
        policy = RandomPolicy(draw)
        environment = KeyframeExploration(sample, SETTINGS, FACTOR)
        conversation = Conversation(tokenizer, chat, sample.clip, max_tokens=int(rng.integers(700, 5000)))
        episode = asyncio.run(roll_out(environment, conversation, policy, {}, TURN_LENGTH))
        check(episode, conversation, policy)
        stops.add(episode.stop)
    expected = {"answered", "turn_limit", "bad_action", "bad_interval", "context_full"}
    assert expected <= {s.value for s in stops}


def test_random_bytes_replayed(tokenizer: Any, chat: ChatFormat, sample: Sample) -> None:
    rng = np.random.default_rng(2)
    for i in range(60):
        text = bytes(rng.integers(0, 256, int(rng.integers(0, 80)), dtype=np.uint8)).decode("utf-8", errors="replace")
        environment = environments(sample)[i % 2]
        conversation = Conversation(tokenizer, chat, sample.clip, max_tokens=4096)
        episode = replay(environment, conversation, [text, text])
        assert episode.stop is StopReason.BAD_ACTION
        assert episode.texts == [text]
        conversation.check()
