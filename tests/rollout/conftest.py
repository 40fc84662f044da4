"""Fixtures: the tokenizer, one clip of 12 frames, and an environment and a conversation on it."""

from __future__ import annotations

from typing import Any

import pytest

from rollout import ChatFormat, Conversation, Expression, Sample
from rollout.environments.keyframe_exploration import KeyframeExploration
from tests.rollout.helpers import FACTOR, SETTINGS, build_tokenizer, write_clip


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return build_tokenizer()


@pytest.fixture(scope="session")
def chat(tokenizer: Any) -> ChatFormat:
    return ChatFormat.from_tokenizer(tokenizer, patch=16, merge=2)


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    clip = write_clip(tmp_path_factory.mktemp("clips") / "ducks")
    return Sample(clip, Expression("0", "the duck that dives last"))


@pytest.fixture
def environment(sample: Sample) -> KeyframeExploration:
    return KeyframeExploration(sample, SETTINGS, FACTOR)


@pytest.fixture
def conversation(tokenizer: Any, chat: ChatFormat, sample: Sample) -> Conversation:
    return Conversation(tokenizer, chat, sample.clip, max_tokens=8192)
