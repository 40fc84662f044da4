"""Token ids equal to the processor's, masks, limits and invariants of a conversation."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rollout import (
    ChatFormat,
    Conversation,
    FramePart,
    Generated,
    Message,
    Sample,
    TextPart,
    replay,
    roll_out,
    scripted,
)
from rollout.environments.keyframe_exploration import KeyframeExploration
from rollout.environments.single_turn_boxes import BoxSettings, SingleTurnBoxes
from rollout.errors import DataError, ProtocolError
from tests.rollout.helpers import FACTOR, SETTINGS, turn
from verl_ext.tiny.tokenizer import CHAT_TEMPLATE

REPLIES = [turn("select", 2, 9, 7), turn("select", 4, 5, 4), turn("answer", 4, 5, 4)]
USER = [Message("user", (FramePart(3, 64, 96), TextPart(" frame 3"), FramePart(4, 32, 64), TextPart(" go")))]


def run(environment: Any, conversation: Conversation, replies: list[str]) -> None:
    asyncio.run(roll_out(environment, conversation, scripted(conversation, replies), {}, 512))


def to_chat(messages: list[Message]) -> list[dict[str, Any]]:
    """What a chat template takes: content lists of texts and images."""
    return [
        {
            "role": m.role,
            "content": [
                {"type": "text", "text": p.text} if isinstance(p, TextPart) else {"type": "image"} for p in m.parts
            ],
        }
        for m in messages
    ]


@pytest.fixture(scope="module")
def processor(tokenizer: Any, chat: ChatFormat) -> Any:
    import transformers

    options: dict[str, Any] = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2}
    hf: Any = transformers
    return hf.Qwen3VLProcessor(
        image_processor=hf.Qwen2VLImageProcessor(size=chat.processor_size(), **options),
        tokenizer=tokenizer,
        video_processor=hf.Qwen3VLVideoProcessor(**options),
        chat_template=CHAT_TEMPLATE,
    )


@pytest.mark.parametrize("prompts", ["full", "brief"])
def test_ids_and_grids_equal_the_processors(processor: Any, tokenizer: Any, sample: Sample, prompts: str) -> None:
    chat = ChatFormat.from_processor(processor)
    conversation = Conversation(tokenizer, chat, sample.clip, max_tokens=8192)
    environment = KeyframeExploration(sample, replace(SETTINGS, prompts=prompts), FACTOR)
    run(environment, conversation, REPLIES)
    assert len(conversation.messages) == 7  # system, then three turns of two
    rendered = processor.apply_chat_template(to_chat(conversation.messages), tokenize=False)
    batch = processor(text=[rendered], images=conversation.images(), return_tensors="np")
    assert [*conversation.token_ids, *chat.newline(tokenizer)] == batch["input_ids"][0].tolist()
    assert [list(g) for g in conversation.grids] == batch["image_grid_thw"].tolist()

    opening = processor.apply_chat_template(
        to_chat(conversation.messages[:2]), tokenize=False, add_generation_prompt=True
    )
    batch = processor(text=[opening], images=conversation.images()[:6], return_tensors="np")
    assert conversation.prompt_ids == batch["input_ids"][0].tolist()


def test_box_dialogue_equals_the_processors(processor: Any, tokenizer: Any, sample: Sample) -> None:
    chat = ChatFormat.from_processor(processor)
    conversation = Conversation(tokenizer, chat, sample.clip, max_tokens=8192)
    settings = BoxSettings(frames=3, side=96, sampling="evenly_spaced")
    answer = '{"keyframe_timestamp": 0, "bbox_2d_list": [[1, 2, 3, 4]]}'
    run(SingleTurnBoxes(sample, settings, 32), conversation, [f"<think>a</think><answer>{answer}</answer>"])
    rendered = processor.apply_chat_template(to_chat(conversation.messages), tokenize=False)
    batch = processor(text=[rendered], images=conversation.images(), return_tensors="np")
    assert [*conversation.token_ids, *chat.newline(tokenizer)] == batch["input_ids"][0].tolist()


def test_positions_equal_the_models(tokenizer: Any, chat: ChatFormat, sample: Sample) -> None:
    import torch
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel

    conversation = Conversation(tokenizer, chat, sample.clip, max_tokens=8192)
    replay(KeyframeExploration(sample, SETTINGS, FACTOR), conversation, REPLIES)
    ids = torch.tensor([conversation.token_ids])

    class Vision:
        spatial_merge_size = 2

    class Config:
        vision_config = Vision

    class Model:
        config = Config
        get_vision_position_ids = Qwen3VLModel.get_vision_position_ids

    get_rope_index: Any = Qwen3VLModel.get_rope_index  # needs no weights, only these two attributes
    grids = torch.tensor(conversation.grids)
    expected, _ = get_rope_index(Model(), ids, (ids == chat.image_pad).int(), image_grid_thw=grids)
    np.testing.assert_array_equal(conversation.position_ids(), expected[:, 0].numpy())


def test_mask_is_one_exactly_on_sampled_tokens(conversation: Conversation) -> None:
    assert conversation.append_user(USER)
    sampled = conversation.tokenizer.encode("a [SEG] b", add_special_tokens=False)
    reply = conversation.append_assistant(sampled, [-0.5] * len(sampled))
    assert reply.text == "a [SEG] b"
    assert conversation.response_mask == [1] * len(sampled) + [0]  # <|im_end|> was missing: ours
    assert conversation.response_log_probs == [-0.5] * len(sampled) + [0.0]
    assert conversation.append_user([Message.text("user", "again [SEG]")])
    closed = [*sampled, conversation.chat.im_end]
    conversation.append_assistant(closed, [-1.0] * len(closed))
    assert sum(conversation.response_mask) == len(sampled) + len(closed)
    assert conversation.prompt_ids + conversation.response_ids == conversation.token_ids
    assert len(conversation.seg_positions) == 2  # the one in the user's text is not the policy's
    assert list(reply.seg_positions) == conversation.seg_positions[:1]


def test_frame_tokens_are_counted_without_loading(conversation: Conversation) -> None:
    conversation.append_user(USER)
    assert conversation.grids == [(1, 4, 6), (1, 2, 4)]
    assert conversation.token_ids.count(conversation.chat.image_pad) == 2 * 3 + 1 * 2
    assert [(i.height, i.width) for i in conversation.images()] == [(64, 96), (32, 64)]
    assert conversation.images()[0] is conversation.images()[0]  # loaded once


def test_a_refused_message_changes_nothing(tokenizer: Any, chat: ChatFormat, sample: Sample) -> None:
    fits = Conversation(tokenizer, chat, sample.clip, max_tokens=8192)
    fits.append_user(USER)
    size = len(fits.token_ids)
    assert Conversation(tokenizer, chat, sample.clip, max_tokens=size).append_user(USER)
    assert Conversation(tokenizer, chat, sample.clip, max_tokens=size + 5).append_user(USER, reserve=5)
    small = Conversation(tokenizer, chat, sample.clip, max_tokens=size + 4)
    assert not small.append_user(USER, reserve=5)
    assert (small.token_ids, small.messages, small.frames, small.grids) == ([], [], [], [])


@pytest.mark.parametrize(
    "token",
    ["<|vision_start|>", "<|image_pad|>", "<|video_pad|>", "<|vision_end|>", "<|im_start|>", "<|vision_pad|>"],
)
def test_control_tokens_are_never_sampled(conversation: Conversation, token: str) -> None:
    (bad,) = conversation.tokenizer.encode(token, add_special_tokens=False)
    assert bad in conversation.forbidden_token_ids()
    conversation.append_user(USER)
    before = list(conversation.token_ids)
    with pytest.raises(ProtocolError, match=str(bad)):
        conversation.append_assistant([5, bad, 6])
    assert conversation.token_ids == before


def test_forbidden_ids_reach_the_engine_beside_the_callers_own_bias(
    environment: KeyframeExploration, conversation: Conversation
) -> None:
    seen: list[Any] = []
    inner = scripted(conversation, [turn("answer", 0, 1, 1)])

    async def generate(
        prompt_token_ids: Any, images: Any, max_tokens: int, stop_token_ids: Any, sampling: Any
    ) -> Generated:
        seen.append((len(images), max_tokens, stop_token_ids, sampling))
        return await inner(prompt_token_ids, images, max_tokens, stop_token_ids, sampling)

    asyncio.run(roll_out(environment, conversation, generate, {"top_p": 0.9, "logit_bias": {7: 1.0}}, 300))
    ((images, max_tokens, stops, sampling),) = seen
    assert (images, max_tokens) == (6, 300)
    assert stops[0] == conversation.chat.im_end
    assert sampling["top_p"] == 0.9
    assert sampling["logit_bias"] == {7: 1.0, **dict.fromkeys(conversation.forbidden_token_ids(), -100.0)}


def test_misuse_is_a_protocol_error(conversation: Conversation) -> None:
    with pytest.raises(ProtocolError, match="no assistant turn is open"):
        conversation.append_assistant([5])
    conversation.append_user(USER)
    with pytest.raises(ProtocolError, match="turn is open"):
        conversation.append_user(USER)
    with pytest.raises(ProtocolError, match="1 sampled tokens came with 2 log-probs"):
        conversation.append_assistant([5], [0.0, 0.0])
    with pytest.raises(ProtocolError, match="goes on after"):
        conversation.append_assistant([conversation.chat.im_end, 5])
    with pytest.raises(ProtocolError, match="outside 0"):
        conversation.append_assistant([10**6])


def test_placeholders_are_checked_against_the_grids(conversation: Conversation) -> None:
    conversation.append_user(USER)
    conversation.token_ids.remove(conversation.chat.image_pad)
    with pytest.raises(ProtocolError, match="7 image placeholders, the grids make 8"):
        conversation.check()


@pytest.mark.parametrize("text", ["<|image_pad|>", "<|im_end|>", "<|im_start|>user"])
def test_control_tokens_in_a_message_are_refused(conversation: Conversation, text: str) -> None:
    with pytest.raises(ProtocolError, match="control token"):
        conversation.append_user([Message.text("user", f"find {text}")])


@pytest.mark.parametrize("text", ["the <|im_end|> duck", "the [SEG] duck"])
def test_control_tokens_in_an_expression_name_the_sample(sample: Sample, text: str) -> None:
    bad = replace(sample, expression=replace(sample.expression, text=text))
    with pytest.raises(DataError, match="clip ducks, expression 0"):
        KeyframeExploration(bad, SETTINGS, FACTOR)


def test_frames_that_the_processor_would_resize_again_are_refused(tokenizer: Any) -> None:
    stock = ChatFormat.from_tokenizer(tokenizer, min_pixels=65536, max_pixels=2**24)
    with pytest.raises(ProtocolError, match=r"set image_processor\.size"):
        stock.grid(FramePart(0, 96, 128))
    with pytest.raises(ProtocolError, match="multiples of 32"):
        stock.grid(FramePart(0, 100, 128))
    assert stock.grid(FramePart(0, 256, 256)) == (1, 16, 16)


def test_a_tokenizer_without_vision_tokens_is_refused() -> None:
    class Plain:
        def get_vocab(self) -> dict[str, int]:
            return {"<|im_start|>": 0, "<|im_end|>": 1}

    with pytest.raises(ProtocolError, match="vision_start"):
        ChatFormat.from_tokenizer(Plain())  # type: ignore[arg-type]
