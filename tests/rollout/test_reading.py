"""Replies in the forms that models really write: carried out as far as they can be read, and never good form."""

from __future__ import annotations

import pytest

from rewards.strict_format import keeps_protocol
from rollout import Action, Grounding, parse_turn
from rollout.box_protocol import BoxAnswer, parse_box_turn, read_box_reply
from rollout.reading import whole_number

T = "<think>a</think>"
V = '{"start": 0, "end": 5, "keyframe": 3}'
BODY = f"<VTG>{V}</VTG> <RefSeg> [SEG] </RefSeg>"
J = '{"keyframe_timestamp": 3, "bbox_2d_list": [[1, 2, 30, 40]]}'
WIDE = str.maketrans({c: chr(ord(c) + 0xFEE0) for c in ':,{}[]"0123456789'})
CURLY = str.maketrans({'"': "\u201c"})


@pytest.mark.parametrize(
    "vtg",
    [
        V.replace('"', "'"),
        '{"start": 0.0, "end": 5.0, "keyframe": 3.0}',
        '{"start": "0", "end": "5", "keyframe": "3"}',
        '{"start": "frame 0", "end": "frame 5", "keyframe": "frame 3"}',
        '{"start": 0, "end": 5.9, "keyframe": 3,}',
        f"```json\n{V}\n```",
        f"```\n{V}\n```",
        V.replace(":", "\uff1a").replace(",", "\uff0c"),
        V.translate(WIDE),
        V.translate(CURLY),
        "{start: 0, end: 5, keyframe: 3}",
        "start: 0, end: 5, keyframe: 3",
        '{"Start": 0, "END": 5, "key_frame": 3}',
        '{"start": 0, "end": 5, "keyframe": 3, "note": null}',
        '{"start": 0, // first\n"end": 5, "keyframe": 3}',
        '{"start": [0], "end": [5], "keyframe": [3]}',
    ],
)
def test_an_interval_in_another_form_is_carried_out(vtg: str) -> None:
    text = f"{T}<select><VTG>{vtg}</VTG> <RefSeg> [SEG] </RefSeg></select>"
    parsed = parse_turn(text)
    assert (parsed.action, parsed.grounding, parsed.think) == (Action.SELECT, Grounding(0, 5, 3), "a")
    answer = text.replace("select>", "answer>")
    assert parse_turn(answer).grounding == Grounding(0, 5, 3)
    assert not keeps_protocol([answer]) or vtg.startswith('{"start": 0, "end": 5, "keyframe": 3, "note"')


@pytest.mark.parametrize(
    ("text", "action"),
    [
        (f"{T}<select>{V}</select>", Action.SELECT),
        (f"{T}<select>{V} <RefSeg> [SEG] </RefSeg></select>", Action.SELECT),
        (f"{T}<answer>{V} [SEG]</answer>", Action.ANSWER),
        (f"{T}<select>{BODY}</select><answer>{BODY}</answer>", Action.SELECT),
        (f"{T}<answer>{BODY}</answer><select>{BODY}</select>", Action.SELECT),
        (f"{T}<select>?</select><answer>{BODY}</answer>", Action.ANSWER),
        (f"I should <select> more</think><select>{BODY}</select>", Action.SELECT),
        (f"<think>a</think> so <think>b <answer></think><select>{BODY}</select>", Action.SELECT),
        (f"{T}I could <select> again, but <answer>{BODY}</answer>", Action.ANSWER),
        (f"<thinking>a</thinking><answer>{BODY}</answer>", Action.ANSWER),
        (f"{T}<Answer>{BODY}</Answer>", Action.ANSWER),
        (f"{T}<answer>{BODY}</answer></think>", Action.ANSWER),
        (f"{T}<answer>{BODY}</answer></answer>", Action.ANSWER),
        (f"{T}<answer>{BODY}</answer><answer>{BODY.replace('3', '4')}</answer>", Action.ANSWER),
        (f"{T}\uff1canswer\uff1e{BODY}\uff1c/answer\uff1e", Action.ANSWER),
    ],
)
def test_an_action_in_another_form_is_carried_out(text: str, action: Action) -> None:
    parsed = parse_turn(text)
    assert (parsed.action, parsed.grounding) == (action, Grounding(0, 5, 3))
    assert parsed.problem is not None and not keeps_protocol([text])


@pytest.mark.parametrize(
    "text",
    [
        f"Draft: <answer>{BODY}</answer> hm</think>I do not know.",
        f"<think>a <answer>{BODY}</answer></think>I do not know.",
        f"{T}<answer><VTG>{V[:-3]}</VTG></answer>",
        f"{T}<answer><VTG>{V[:-3]}",
        f"{T}{V}",
    ],
)
def test_what_is_a_draft_cut_or_unsaid_is_not_guessed(text: str) -> None:
    parsed = parse_turn(text)
    assert parsed.action is None or parsed.grounding is None


def in_list(boxes: str) -> str:
    return f'{{"keyframe_timestamp": 3, "bbox_2d_list": {boxes}}}'


@pytest.mark.parametrize(
    "body",
    [
        J,
        J.replace('"', "'"),
        f"```json\n{J}\n```",
        f"Here it is: {J}.",
        f"[{J}]",
        J.replace("]]}", "],]}"),
        J.replace(":", "\uff1a").replace(",", "\uff0c"),
        J.translate(WIDE),
        J.translate(CURLY),
        J.replace("_", "\\_"),
        J.replace('"', ""),
        J[1:-1],
        J.replace("3,", "3.5,", 1),
        J.replace("3,", '"3",', 1),
        J.replace("3,", '"3 s",', 1),
        J.replace("3,", '"00:03",', 1),
        J.replace("_list", ""),
        J.replace("]]}", ']], "score": null, "sure": true,}'),
        in_list("[1, 2, 30, 40]"),
        in_list("[(1, 2, 30, 40)]"),
        in_list("[[[1, 2, 30, 40]]]"),
        in_list("[[1, 2], [30, 40]]"),
        in_list("[[[1, 2], [30, 40]]]"),
        in_list('[["1", "2", "30", "40"]]'),
        in_list('"[[1, 2, 30, 40]]"'),
        in_list('["[1, 2, 30, 40]"]'),
        in_list("[[30, 40, 1, 2]]"),
        in_list("[[30, 2, 1, 40]]"),
        in_list("[[1, 2, 30, 40], [5, 6, 7]]"),
        in_list('[{"bbox_2d": [1, 2, 30, 40], "label": "the man\'s dog"}]'),
        in_list('{"bbox_2d": [1, 2, 30, 40]}'),
        in_list('{"dog": [1, 2, 30, 40]}'),
        in_list('[{"x1": 1, "y1": 2, "x2": 30, "y2": 40}]'),
    ],
)
def test_boxes_in_another_form_are_carried_out(body: str) -> None:
    assert parse_box_turn(f"{T}<answer>{body}</answer>").answer == BoxAnswer(3, ((1, 2, 30, 40),))


def test_several_boxes_in_another_form() -> None:
    two = ((1, 2, 30, 40), (5, 6, 7, 8))
    for boxes in (
        "[1, 2, 30, 40, 5, 6, 7, 8]",
        "[[[1, 2], [30, 40]], [[5, 6], [7, 8]]]",
        "[[1, 2, 30, 40, 5, 6, 7, 8]]",
    ):
        assert parse_box_turn(f"{T}<answer>{in_list(boxes)}</answer>").answer == BoxAnswer(3, two)
    assert parse_box_turn(f"{T}<answer>{in_list('[]')}</answer>").answer == BoxAnswer(3, ())


@pytest.mark.parametrize(
    "text",
    [
        f"<think>an <answer> ... </answer> follows</think><answer>{J}</answer>",
        f"an <answer>{J.replace('3', '4')}</answer> may follow</think><answer>{J}</answer>",
        f"{T}<answer>so:</answer><answer>{J}</answer>",
        f"{T}<answer>{J}",
        f"{T}<ANSWER>{J}</ANSWER>",
        f"{T}{J}",
        f"{T}```json\n{J}\n```",
        J,
        f"{T}<answer>{J}</answer></think>",
    ],
)
def test_the_answer_is_found_where_it_is(text: str) -> None:
    assert parse_box_turn(text).answer == BoxAnswer(3, ((1, 2, 30, 40),))


@pytest.mark.parametrize(
    "text",
    [
        f"<think>maybe {J} but",
        f"<think>maybe <answer>{J}</answer></think> I cannot find it.",
        f"{T}<answer>{J[:-5]}",
        f"{T}<answer>{in_list('[[1, 2, 3]]')}</answer>",
        f"{T}<answer>{in_list('null')}</answer>",
        f"{T}<answer>{{'keyframe_timestamp': null, 'bbox_2d_list': []}}</answer>",
    ],
)
def test_no_boxes_are_guessed(text: str) -> None:
    assert parse_box_turn(text).answer is None


def test_the_rewards_read_beyond_a_thought_that_names_the_tag_but_no_other_form() -> None:
    named = f"<think>an <answer> ... </answer> follows</think><answer>{J}</answer>"
    assert read_box_reply(named) == read_box_reply(f"{T}<answer>{J}</answer>") is not None
    assert read_box_reply(named, strict=False) is None
    single = f"{T}<answer>{J}</answer>".replace('"', "'")
    assert read_box_reply(single) is None
    assert parse_box_turn(single).problem == "the answer is not a JSON object"


@pytest.mark.parametrize(
    "value", [3, 3.0, 3.9, "3", " 3.5 ", "3s", "3 seconds", "frame 3", "#3", [3], "0:03", "\uff13"]
)
def test_a_number_in_another_form(value: object) -> None:
    assert whole_number(value) == 3


@pytest.mark.parametrize("value", [None, True, "", "three", float("nan"), float("inf"), 10**400, [3, 4], {}, "3 to 5"])
def test_no_number(value: object) -> None:
    assert whole_number(value) is None


def test_hostile_text_is_no_answer_and_never_raises() -> None:
    for body in (
        "[" * 100_000,
        "{" * 100_000,
        "{'a':" * 300,
        '{"keyframe_timestamp": ' + "9" * 5000 + "}",
        "{" + "[" * 200,
    ):
        assert parse_box_turn(f"{T}<answer>{body}</answer>").answer is None
        assert parse_turn(f"{T}<answer><VTG>{body}</VTG></answer>").grounding is None
