"""Whole episodes: which frames each turn shows, why an episode ends, and what it leaves behind."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rollout import (
    ChatFormat,
    Conversation,
    Episode,
    Expression,
    Grounding,
    Sample,
    StopReason,
    replay,
    roll_out,
    scripted,
)
from rollout.environments.keyframe_exploration import ExplorationSettings, KeyframeExploration
from rollout.episode import final_keyframe
from tests.rollout.helpers import FACTOR, SETTINGS, turn, write_clip


def run(environment: KeyframeExploration, conversation: Conversation, *replies: Any, turn_length: int = 256) -> Episode:
    generate = scripted(conversation, replies)
    return asyncio.run(roll_out(environment, conversation, generate, {"temperature": 1.0}, turn_length))


def test_select_then_answer(environment: KeyframeExploration, conversation: Conversation) -> None:
    first, last = turn("select", 2, 9, 7), turn("answer", 3, 8, 5)
    episode = run(environment, conversation, first, last)
    assert episode.stop is StopReason.ANSWERED
    assert episode.texts == [first, last]
    assert episode.spatial_frames == (0, 11)
    assert [t.keyframe for t in episode.turns] == [6, 7]  # T // 2, then the selected one
    assert episode.turns[0].shown == (0, 3, 7, 11, 0, 11)
    assert episode.turns[1].shown == (2, 5, 9, 7)  # three of [2, 9] with both ends, then the keyframe
    seg = conversation.chat.seg
    for t in episode.turns:
        assert [conversation.token_ids[p] for p in t.seg_positions] == [seg]
    assert final_keyframe(episode) == 7


def test_short_interval_shows_every_frame(environment: KeyframeExploration, conversation: Conversation) -> None:
    episode = run(environment, conversation, turn("select", 4, 5, 5), turn("answer", 4, 5, 5))
    assert episode.turns[1].shown == (4, 5, 5)


def test_indices_are_clamped_before_they_are_used(environment: KeyframeExploration, conversation: Conversation) -> None:
    big = 10**30
    episode = run(environment, conversation, turn("select", -5, big, big), turn("answer", 0, 1, -3))
    assert episode.turns[1].shown == (0, 5, 11, 11)
    assert episode.turns[0].grounding is not None and episode.turns[0].grounding.end == big  # as it was written
    assert final_keyframe(episode) == 11


@pytest.mark.parametrize(
    ("replies", "stop", "turns"),
    [
        ([turn("answer", 0, 3, 1)], StopReason.ANSWERED, 1),
        ([turn("answer", 9, 3, 1)], StopReason.ANSWERED, 1),  # an answer samples no frames
        ([turn("select", 9, 3, 5)], StopReason.BAD_INTERVAL, 1),
        ([turn("select", 0, 3, 1), turn("select", 9, 8, 1)], StopReason.BAD_INTERVAL, 2),
        ([turn("select", 0, 3, 1)] * 4, StopReason.TURN_LIMIT, 3),
        (["I see a duck."], StopReason.BAD_ACTION, 1),
        ([""], StopReason.BAD_ACTION, 1),
        (["<think>a</think><select><VTG>{start: 1}</VTG></select>"], StopReason.BAD_ACTION, 1),
        (["<think>a</think><answer>[SEG]</answer>"], StopReason.BAD_ACTION, 1),
    ],
)
def test_stop_reasons(
    environment: KeyframeExploration, conversation: Conversation, replies: list[str], stop: StopReason, turns: int
) -> None:
    episode = run(environment, conversation, *replies)
    assert episode.stop is stop
    assert len(episode.turns) == turns
    assert final_keyframe(episode) in range(12)


def test_a_cut_reply_ends_with_length(environment: KeyframeExploration, conversation: Conversation) -> None:
    episode = run(environment, conversation, turn("select", 0, 3, 1), turn_length=10)
    assert episode.stop is StopReason.LENGTH
    assert sum(conversation.response_mask) == 10
    assert conversation.token_ids[-1] == conversation.chat.im_end
    assert conversation.loss_mask[-1] == 0  # the closing token is ours, not the policy's


def test_overflow_is_refused_before_a_frame_is_opened(
    tokenizer: Any, chat: ChatFormat, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []

    def spy(clip: Any, index: int, height: int, width: int) -> Any:
        opened.append(index)

    monkeypatch.setattr("rollout.conversation.load_frame_resized", spy)
    probe = Conversation(tokenizer, chat, sample.clip, max_tokens=10_000)
    run(KeyframeExploration(sample, SETTINGS, FACTOR), probe, turn("answer", 0, 1, 1))
    prompt = probe.prompt_length
    reply = len(probe.response_ids)
    opened.clear()

    exact = Conversation(tokenizer, chat, sample.clip, max_tokens=prompt + reply)
    episode = run(KeyframeExploration(sample, SETTINGS, FACTOR), exact, turn("select", 0, 1, 1), turn_length=reply)
    assert episode.stop is StopReason.LENGTH and len(opened) == 6

    opened.clear()
    small = Conversation(tokenizer, chat, sample.clip, max_tokens=prompt + reply - 1)
    episode = run(KeyframeExploration(sample, SETTINGS, FACTOR), small, turn("answer", 0, 1, 1), turn_length=reply)
    assert episode.stop is StopReason.CONTEXT_FULL and episode.turns == []
    assert opened == [] and small.token_ids == [] and small.frames == []

    later = Conversation(tokenizer, chat, sample.clip, max_tokens=prompt + 256 + 20)
    episode = run(KeyframeExploration(sample, SETTINGS, FACTOR), later, turn("select", 3, 8, 5))
    assert episode.stop is StopReason.CONTEXT_FULL and len(episode.turns) == 1
    assert len(opened) == 6 and len(later.frames) == 6


def test_a_turn_may_take_all_of_the_response_but_the_closing_token(
    tokenizer: Any, chat: ChatFormat, sample: Sample
) -> None:
    """Veason-R1's limits: one turn of 1024 tokens in a response of 1024."""
    answer = turn("answer", 0, 1, 1)
    length = len(tokenizer.encode(answer, add_special_tokens=False)) + 1  # with <|im_end|>
    for room, turn_length, stop in (
        (length + 1, length + 1, StopReason.ANSWERED),
        (length + 1, length, StopReason.ANSWERED),
        (length, length, StopReason.LENGTH),  # it wants its own closing token where ours has to fit
        (length - 1, length, StopReason.CONTEXT_FULL),
        (2, 1, StopReason.LENGTH),
        (1, 1, StopReason.CONTEXT_FULL),
    ):
        conversation = Conversation(tokenizer, chat, sample.clip, max_tokens=8192, max_response_tokens=room)
        episode = run(KeyframeExploration(sample, SETTINGS, FACTOR), conversation, answer, turn_length=turn_length)
        assert episode.stop is stop, (room, turn_length)
        assert len(conversation.response_ids) <= room
        assert sum(conversation.response_mask) <= turn_length


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        ([turn("select", 2, 9, 7), turn("answer", 3, 8, 5)], 7),  # the selected one, not the answer's
        ([turn("select", 2, 9, 7), turn("select", 3, 8, 5), turn("answer", 0, 1, 1)], 5),
        ([turn("select", 2, 9, 7), turn("select", 3, 8, 5), turn("select", 0, 9, 2)], 2),  # turn limit
        ([turn("select", 2, 9, 7), turn("select", 9, 8, 5)], 5),  # bad interval
        ([turn("select", 2, 9, 7), "no tags"], 7),
        ([turn("select", 9, 2, 99)], 11),  # clamped
        ([turn("answer", 3, 8, 5)], 5),
        (["no tags"], 11),  # the middle one of the spatial frames 0 and 11
        ([], 11),
    ],
)
def test_the_final_keyframe_is_the_last_selected_one_however_the_episode_ended(
    environment: KeyframeExploration, conversation: Conversation, replies: list[str], expected: int
) -> None:
    assert final_keyframe(replay(environment, conversation, replies)) == expected


def test_the_final_keyframe_after_a_context_that_was_full(tokenizer: Any, chat: ChatFormat, sample: Sample) -> None:
    tight = Conversation(tokenizer, chat, sample.clip, max_tokens=8192, max_response_tokens=300)
    episode = run(KeyframeExploration(sample, SETTINGS, FACTOR), tight, turn("select", 0, 9, 5))
    assert episode.stop is StopReason.CONTEXT_FULL and final_keyframe(episode) == 5


def test_prompt_and_response_have_their_own_limits(tokenizer: Any, chat: ChatFormat, sample: Sample) -> None:
    tight = Conversation(tokenizer, chat, sample.clip, max_tokens=8192, max_prompt_tokens=100)
    assert run(KeyframeExploration(sample, SETTINGS, FACTOR), tight).stop is StopReason.CONTEXT_FULL
    tight = Conversation(tokenizer, chat, sample.clip, max_tokens=8192, max_response_tokens=300)
    episode = run(KeyframeExploration(sample, SETTINGS, FACTOR), tight, turn("select", 0, 9, 5))
    assert episode.stop is StopReason.CONTEXT_FULL and len(episode.turns) == 1
    assert len(tight.response_ids) <= 300


def test_an_unreadable_frame_refuses_the_clip_and_names_it(
    tokenizer: Any, chat: ChatFormat, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = write_clip(tmp_path / "broken")
    Path(clip.frames[3]).write_bytes(b"not a jpeg")
    broken = Sample(clip, Expression("0", "the duck"))
    conversation = Conversation(tokenizer, chat, clip, max_tokens=8192)
    with caplog.at_level(logging.ERROR):
        episode = run(KeyframeExploration(broken, SETTINGS, FACTOR), conversation, turn("answer", 0, 1, 1))
    assert episode.stop is StopReason.REFUSED_CLIP
    assert "clip broken, frame 3" in caplog.text and clip.frames[3] in caplog.text


def test_a_clip_without_frames_is_refused(tokenizer: Any, chat: ChatFormat, sample: Sample) -> None:
    empty = Sample(replace(sample.clip, frames=()), sample.expression)
    conversation = Conversation(tokenizer, chat, empty.clip, max_tokens=8192)
    episode = run(KeyframeExploration(empty, SETTINGS, FACTOR), conversation)
    assert episode.stop is StopReason.REFUSED_CLIP and conversation.token_ids == []


def test_replay_is_the_dialogue_of_roll_out(tokenizer: Any, chat: ChatFormat, sample: Sample) -> None:
    replies = [turn("select", 2, 9, 7), turn("select", 5, 7, 6), turn("answer", 5, 7, 6)]
    sampled = Conversation(tokenizer, chat, sample.clip, max_tokens=8192)
    a = run(KeyframeExploration(sample, SETTINGS, FACTOR), sampled, *replies)
    replayed = Conversation(tokenizer, chat, sample.clip, max_tokens=8192)
    b = replay(KeyframeExploration(sample, SETTINGS, FACTOR), replayed, replies)
    assert a == b
    assert sampled.token_ids == replayed.token_ids and sampled.loss_mask == replayed.loss_mask
    assert sampled.grids == replayed.grids
    assert sampled.response_log_probs is not None and replayed.response_log_probs is None


def test_replay_uses_the_recorded_frames(tokenizer: Any, chat: ChatFormat, sample: Sample) -> None:
    recorded = KeyframeExploration(
        sample, SETTINGS, FACTOR, spatial_frames=[1, 8, 9], trace=[Grounding(start=3, end=4, keyframe=4)]
    )
    conversation = Conversation(tokenizer, chat, sample.clip, max_tokens=8192)
    episode = replay(recorded, conversation, [turn("select", 0, 11, 0), turn("answer", 3, 4, 4)])
    assert episode.spatial_frames == (1, 8, 9)
    assert episode.turns[0].shown == (0, 3, 7, 11, 1, 8, 9)
    assert episode.turns[1].shown == (3, 4, 4) and episode.turns[1].keyframe == 4


def test_cold_start_shows_twenty_frames_and_those_that_the_sample_names(
    tokenizer: Any, chat: ChatFormat, tmp_path: Path
) -> None:
    clip = write_clip(tmp_path / "long", num_frames=40)
    settings = ExplorationSettings.preset("cold_start")
    recorded = KeyframeExploration(Sample(clip, Expression("0", "duck")), settings, FACTOR, spatial_frames=[5, 30])
    conversation = Conversation(tokenizer, chat, clip, max_tokens=8192)
    episode = replay(recorded, conversation, [turn("answer", 0, 1, 1)])
    shown = episode.turns[0].shown
    assert len(shown) == 22 and shown[:2] == (0, 2) and shown[19:] == (39, 5, 30)


def test_replay_that_wants_to_go_on_ends_at_its_own_limit(
    environment: KeyframeExploration, conversation: Conversation
) -> None:
    episode = replay(environment, conversation, [turn("select", 0, 5, 1)])
    assert episode.stop is StopReason.TURN_LIMIT and len(episode.turns) == 1
    assert conversation.token_ids[-1] == conversation.chat.im_end
