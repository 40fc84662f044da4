"""Reading replies: exact on good ones, a named problem on bad ones, never an exception."""

from __future__ import annotations

import re

import numpy as np
import pytest

from rollout import Action, Grounding, ParsedTurn, clamp, format_turn, parse_turn
from rollout.box_protocol import BoxAnswer, parse_box_turn
from tests.rollout.helpers import turn

BODY = '<VTG>{"start": 1, "end": 5, "keyframe": 3}</VTG> <RefSeg> [SEG] </RefSeg>'


def executable(parsed: ParsedTurn) -> bool:
    """What the environment asks for before it acts."""
    return parsed.action is not None and parsed.grounding is not None


def test_a_well_formed_turn() -> None:
    parsed = parse_turn(turn("select", 1, 5, 3, think="Step 1: it moves.\nAction: look"))
    assert parsed.action is Action.SELECT
    assert parsed.grounding == Grounding(1, 5, 3)
    assert parsed.think == "Step 1: it moves.\nAction: look"
    assert parsed.problem is None and executable(parsed)


def test_format_turn_is_read_back() -> None:
    grounding = Grounding(-2, 40, 7)
    text = format_turn("because", Action.ANSWER, grounding)
    parsed = parse_turn(text)
    assert (parsed.action, parsed.grounding, parsed.think, parsed.problem) == (
        Action.ANSWER,
        grounding,
        "because",
        None,
    )
    assert text == turn("answer", -2, 40, 7, think="because")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"<select>{BODY}</select>", "no <think>"),
        (f"well, <think>a</think><select>{BODY}</select>", "no <think>"),
        (f"<think>a</think><select>{BODY}</select> done", "text outside"),
        (f"<think>a</think> so <answer>{BODY}</answer>", "text outside"),
        ('<think>a</think><answer><VTG>{"start":1,"end":5,"keyframe":3}</VTG></answer>', "RefSeg"),
        (f"<think>a</think><answer>{BODY} <RefSeg> [SEG] </RefSeg></answer>", "RefSeg"),
    ],
)
def test_lesser_breaches_are_named_but_can_be_carried_out(text: str, problem: str) -> None:
    parsed = parse_turn(text)
    assert parsed.problem is not None and problem in parsed.problem
    assert executable(parsed) and parsed.grounding == Grounding(1, 5, 3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<think>a</think>",
        f"<think>a</think><select>{BODY}",
        f"<think>a</think><select>{BODY}</answer>",
        f"<think>a</think></select>{BODY}<select>",
        f"<think>a</think><select><answer>{BODY}</answer></select>",
        f"<think>a<select>{BODY}</select></think>",  # an action inside the think block is prose
    ],
)
def test_without_exactly_one_action_there_is_none(text: str) -> None:
    parsed = parse_turn(text)
    assert parsed.action is None and not executable(parsed) and parsed.problem


def test_tags_inside_the_think_block_do_not_count() -> None:
    parsed = parse_turn(turn("answer", 1, 5, 3, think="I could <select> again, no <VTG></VTG>"))
    assert parsed.action is Action.ANSWER and parsed.problem is None


@pytest.mark.parametrize(
    "vtg",
    [
        "",
        "{}",
        '{"start": 1, "end": 5}',
        '{"start": true, "end": 5, "keyframe": 3}',
        '{"start": null, "end": 5, "keyframe": 3}',
        '{"start": NaN, "end": 5, "keyframe": 3}',
        '{"start": 1, "end": 5, "keyframe": 3} trailing',
        "[1, 5, 3]",
        "3",
        "__import__('os').abort()",
        "[" * 100_000,
        '{"start": ' + "9" * 5000 + ', "end": 5, "keyframe": 3}',
    ],
)
def test_a_vtg_that_cannot_be_read_gives_no_grounding(vtg: str) -> None:
    parsed = parse_turn(f"<think>a</think><answer><VTG>{vtg}</VTG> <RefSeg> [SEG] </RefSeg></answer>")
    assert parsed.action is Action.ANSWER
    assert parsed.grounding is None and not executable(parsed)
    assert parsed.problem is not None and "VTG" in parsed.problem


def test_random_text_never_raises() -> None:
    rng = np.random.default_rng(0)
    pieces = ["<think>", "</think>", "<select>", "</select>", "<answer>", "</answer>", "<VTG>", "</VTG>", BODY]
    pieces += ["<RefSeg>", "</RefSeg>", "[SEG]", '{"start":', "1", "}", "\x00", "é", "\ud800", " "]
    count = 0
    for _ in range(3000):
        picks = rng.choice(len(pieces), size=rng.integers(0, 9))
        parsed = parse_turn("".join(pieces[i] for i in picks))
        count += executable(parsed)
        assert executable(parsed) or parsed.problem
        garbage = bytes(rng.integers(0, 256, 40, dtype=np.uint8)).decode("latin-1")
        assert parse_turn(garbage).problem and parse_box_turn(garbage).problem
    assert count > 0  # the pieces can make an action, so the loop tests both sides


def test_clamp() -> None:
    assert clamp(Grounding(-3, 99, 12), 10) == Grounding(0, 9, 9)
    assert clamp(Grounding(7, 2, 4), 10) == Grounding(7, 2, 4)  # not swapped: the environment must see it


def test_a_box_answer() -> None:
    text = (
        '<think>a</think>\n<answer>{"keyframe_timestamp": 4, "bbox_2d_list": [[1, 2, 3.5, 4], [0, 0, 9, 9]]}</answer>'
    )
    parsed = parse_box_turn(text)
    assert parsed.answer == BoxAnswer(4, ((1.0, 2.0, 3.5, 4.0), (0.0, 0.0, 9.0, 9.0)))
    assert parsed.problem is None


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "NaN",
        '{"keyframe_timestamp": true, "bbox_2d_list": []}',
        '{"keyframe_timestamp": NaN, "bbox_2d_list": []}',
        '{"keyframe_timestamp": 1' + "0" * 400 + ', "bbox_2d_list": []}',
        '{"keyframe_timestamp": 4}',
        '{"keyframe_timestamp": 4, "bbox_2d_list": {}}',
        "[" * 100_000,
    ],
)
def test_a_malformed_box_answer_is_none(body: str) -> None:
    parsed = parse_box_turn(f"<think>a</think><answer>{body}</answer>")
    assert parsed.answer is None and parsed.problem and parsed.think == "a"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("</answer>", "</answer> done", "and nothing else"),
        ("<think>a</think>", "", "and nothing else"),
        ("4,", '"4",', "not an integer"),
        ("]]", "], [1, 2, 3]]", r"bbox_2d_list\[1\] is not \[x1, y1, x2, y2\]"),
        ("]]", '], [1, 2, 3, "4"]]', "is not"),
        ("]]", "], [1, 2, 3, 1" + "0" * 400 + "]]", "is not"),
        ("]]", "], [1, 2, 3, true]]", "is not"),
        ("]]", "], [3, 2, 1, 4]]", "inverted"),
    ],
)
def test_lesser_breaches_of_a_box_answer_are_named_but_can_be_carried_out(old: str, new: str, problem: str) -> None:
    """One bad box beside a good one: the rewards pay for the good one, so it is segmented as well."""
    good = '<think>a</think><answer>{"keyframe_timestamp": 4, "bbox_2d_list": [[1, 2, 3, 4]]}</answer>'
    parsed = parse_box_turn(good.replace(old, new))
    assert parsed.answer == BoxAnswer(4, ((1, 2, 3, 4),)) == parse_box_turn(good).answer
    assert parsed.problem is not None and re.search(problem, parsed.problem)


@pytest.mark.parametrize(
    "body",
    [
        f"{BODY} and more",
        BODY.replace("</VTG>", "</VTG></VTG>"),
        BODY.replace("<RefSeg>", "<RefSeg><RefSeg>"),
        '<RefSeg> [SEG] </RefSeg><VTG>{"start": 1, "end": 5, "keyframe": 3}</VTG>',
    ],
)
def test_nothing_else_belongs_into_an_action(body: str) -> None:
    parsed = parse_turn(f"<think>a</think><answer>{body}</answer>")
    assert parsed.problem is not None and executable(parsed)
