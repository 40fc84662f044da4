"""Prompt sets: shipped ones, a user's own file, and what is refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rollout.control_text import control_fault, control_text, dialogue_of
from rollout.environments.single_turn_boxes import BoxSettings, SingleTurnBoxes
from rollout.errors import DataError, RecipeError
from rollout.messages import FramePart, Message, TextPart
from rollout.prompts import Asked, BoxPromptSet, PromptSet, get_prompts, prompt_names
from rollout.types import Clip, Expression, Sample

CLIP = Clip("ducks", tuple(f"{t}.jpg" for t in range(12)), 48, 64)
SAMPLE = Sample(CLIP, Expression("0", "The Duck {time} that dives."))


@pytest.mark.parametrize("kind", [PromptSet, BoxPromptSet])
def test_every_shipped_set_is_sound(kind: type[Asked]) -> None:
    assert {"full", "brief", "release_form"} <= set(prompt_names(kind))
    assert ("stamped" in prompt_names(kind)) == (kind is PromptSet)
    for name in prompt_names(kind):
        prompts = get_prompts(name, kind)
        prompts.check()
        assert prompts.name == name and "query" not in prompts.as_asked("x")


def text_of(messages: Any) -> str:
    return "".join(p.text if isinstance(p, TextPart) else f"[{p.frame}]" for m in messages for p in m.parts)


def test_the_release_form_of_box_prompts() -> None:
    settings = BoxSettings(frames=3, side=56, sampling="evenly_spaced", prompts="release_form")
    messages = SingleTurnBoxes(SAMPLE, settings, 28, frames=(0, 5, 11)).begin()
    assert isinstance(messages, list)
    user = text_of(messages[1:])
    assert user.startswith("(0s)[0], (5s)[5], (11s)[11] \nThe 3 frames")
    assert "'the duck {time} that dives'" in user and "Duck" not in user


def test_the_full_box_prompts_say_what_boxes_are_in() -> None:
    said = {}
    for units in ("pixels", "thousandths"):
        settings = BoxSettings(frames=3, side=56, sampling="evenly_spaced", units=units)
        messages = SingleTurnBoxes(SAMPLE, settings, 28, frames=(0, 5, 11)).begin()
        said[units] = text_of(messages)
        assert '{"keyframe_timestamp": seconds, "bbox_2d_list": [[x1, y1, x2, y2], …]}' in said[units]
    assert "one box in pixels per object" in said["pixels"] and "0 to 1000" not in said["pixels"]
    assert "thousandths of the frame's width and height (0 to 1000)" in said["thousandths"]
    assert "The Duck {time} that dives." in said["pixels"]


def test_the_release_form_of_seg_prompts() -> None:
    prompts = get_prompts("release_form")
    frames = [FramePart(t, 32, 32) for t in (0, 4)]
    parts = prompts.first_user_parts(frames, frames[:1], "a {count} of ducks", 12)
    said = "".join(p.text if isinstance(p, TextPart) else f"[{p.frame}]" for p in parts)
    assert said.startswith("[0][4]\nThe 2 images") and "(frame indices [0, 4])" in said
    assert '"a {count} of ducks"' in said and said.endswith("The video has 12 frames.")
    assert '<select>{"start": start' in prompts.system_message().parts[0].text  # type: ignore[union-attr]


def test_stamped_frames_have_their_number_before_them() -> None:
    prompts = get_prompts("stamped")
    low, key = [FramePart(t, 32, 32) for t in (3, 14)], FramePart(7, 64, 64)
    first = text_of([Message("user", tuple(prompts.first_user_parts(low, [key], "duck", 20)))])
    assert first == " 3[3] 14[14] low 7[7] high of 20 find duck"
    later = text_of([Message("user", tuple(prompts.follow_up_parts(low, key, "duck", 20)))])
    assert later == " 3[3] 14[14] low 7[7] key find duck"


def test_a_line_that_is_empty_is_left_out() -> None:
    prompts = replace(get_prompts("stamped"), name="bare", spatial="")
    prompts.check()
    parts = prompts.first_user_parts([], [FramePart(7, 64, 64)], "duck", 20)
    assert text_of([Message("user", tuple(parts))]) == " 7[7] of 20 find duck"


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text('base: brief\nquestion: "Where is {query}? {\\"a\\": 1}"\nlower_case: true\n')
    prompts = get_prompts(str(file))
    assert prompts.system == "segment"
    asked = prompts.first_user_parts([], [], "The Duck", 5)[-1]
    assert isinstance(asked, TextPart) and asked.text == 'Where is the duck? {"a": 1}'
    assert BoxSettings.from_dict({"sampling": "evenly_spaced", "prompts": str(write_box(tmp_path))}).prompts


def write_box(folder: Path) -> Path:
    (folder / "box.yaml").write_text('system: ""\nstamp: "<{time}>"\nquestion: " {query}"\nopening: "{seconds} s: "\n')
    return folder / "box.yaml"


def test_a_set_without_a_system_message(tmp_path: Path) -> None:
    settings = BoxSettings(frames=2, side=56, sampling="evenly_spaced", prompts=str(write_box(tmp_path)))
    messages = SingleTurnBoxes(SAMPLE, settings, 28, frames=(0, 11)).begin()
    assert isinstance(messages, list) and [m.role for m in messages] == ["user"]
    assert text_of(messages) == "12 s: <0>[0]<11>[11] The Duck {time} that dives."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "must be a mapping"),
        ("base: full\nquestoin: x", "'questoin' is none of base, system"),
        ("base: full\nquestion: 3", "question is 3, expected str"),
        ("base: full\nquestion: what?", r"question has no \{query\}"),
        ('base: full\nquestion: "{Question} {query}"', r"question has the field \{Question\}; it may have \{query\}"),
        ('base: full\nreminder: "{query} [SEG]"', r"reminder holds \[SEG\]"),
        ('base: full\nsystem: "<|im_start|>"', "system holds control text"),
        ("system: x", "no temporal, spatial, question"),
        ("base: long", "no prompt set 'long'"),
        ("a: [", "cannot be read as YAML"),
    ],
)
def test_a_file_that_cannot_be_asked_with_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(RecipeError, match=message) as error:
        get_prompts(str(tmp_path / "mine.yaml"))
    assert "mine.yaml" in str(error.value) or "long" in str(error.value)
    with pytest.raises(RecipeError, match="does not exist"):
        get_prompts(str(tmp_path / "other.yaml"))


@pytest.mark.parametrize(
    "text",
    [
        "the <image>",
        "a <video> here",
        "<|image_pad|>",
        "<|x",
        "it </think> stands",
        "the <VTG> one",
        "[SEG]",
        "</answer>",
        "<RefSeg>",
        "<Image>",
        "<p>it</p>",
        "< select >",
        "<audio>",
    ],
)
def test_control_text_is_found(text: str) -> None:
    assert control_text(text) is not None
    assert control_fault("the cat", [f"<think>a {text.replace('</think>', '<think>')}</think><answer></answer>"])
    with pytest.raises(DataError, match=r"clip ducks, expression 0: the expression .* contains the control text"):
        dialogue_of(Sample(CLIP, Expression("0", text)))


@pytest.mark.parametrize("text", ["a < b > c", "the image", "<vision_start> x", "2 <3", "[seg]", "P <q>", "a|b|>"])
def test_words_are_no_control_text(text: str) -> None:
    assert control_text(text) is None
    assert control_fault(text, [f"<think>{text}</think><answer>[SEG]</answer>", "no thought <image>"]) is None
