"""strict_format and step_format by numbers."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from rewards import RewardInput, get_reward
from rollout import Grounding, parse_turn

Build = Callable[..., RewardInput]
Turn = Callable[..., str]
strict, step = get_reward("strict_format"), get_reward("step_format")


def test_strict_format_wants_select_until_the_last_answer(rollout: Build, turn: Turn) -> None:
    select, answer = turn(tag="select"), turn(tag="answer")
    assert strict(rollout(select, select, answer)) == 1
    assert strict(rollout(answer)) == 1
    for turns in ([select], [answer, answer], [select, answer, select], [answer, select]):
        assert strict(rollout(*turns)) == -1
        assert strict(rollout(*turns), "released") == 1


def test_end_of_turn_token_and_whitespace_are_harmless(rollout: Build, turn: Turn) -> None:
    assert strict(rollout(f"\n {turn().replace('</think>', '</think> ')}<|im_end|>\n")) == 1


@pytest.mark.parametrize(
    ("old", "new", "released"),
    [
        ('"start": 0', "'start': 0", -1),  # not JSON
        ('"keyframe": 1', '"other": 1', -1),
        ("[SEG]", "", -1),
        ("<RefSeg> [SEG] </RefSeg>", "[SEG]", -1),
        ("</think>", "", -1),
        ("</answer>", "", -1),
        ('{"start"', '[{"start"', -1),
        ('"start": 0', '"start": "a"', 1),  # the released rule reads keys only
        ('"start": 0', '"start": NaN', 1),
        ('"start": 0', '"start": true', 1),
        ("[SEG]", "[SEG][SEG]", 1),
        ("</think>", "</think> and then", -1),
        ("<think>", "Well. <think>", 1),
        ("</VTG>", "</VTG> here it is", 1),
    ],
)
def test_one_flaw_fails_the_turn(rollout: Build, turn: Turn, old: str, new: str, released: int) -> None:
    text = turn().replace(old, new)
    assert text != turn()
    assert strict(rollout(text)) == -1
    assert strict(rollout(text), "released") == released
    assert strict(rollout(turn(tag="select"), text)) == -1


def test_two_action_blocks_are_not_one(rollout: Build, turn: Turn) -> None:
    again = turn(tag="select").split("</think>")[1]
    assert strict(rollout(turn().replace("</think>", "</think>" + again))) == -1
    assert strict(rollout(turn() + again)) == -1


@pytest.mark.parametrize("tag", ["VTG", "RefSeg"])
def test_a_turn_that_the_environment_cannot_read_is_no_good_form(rollout: Build, turn: Turn, tag: str) -> None:
    text = turn().replace(f"</{tag}>", f"</{tag}><{tag}></{tag}>")
    assert parse_turn(text).problem
    assert strict(rollout(text)) == -1 and strict(rollout(text), "released") == 1


def test_a_wide_vtg_is_as_good_for_the_rewards_as_for_the_environment(rollout: Build, turn: Turn) -> None:
    text = turn(0, 4, 1).replace('"end"', " " * 2000 + '"end"')
    assert parse_turn(text).grounding == Grounding(0, 4, 1)
    assert strict(rollout(text)) == 1 and get_reward("interval")(rollout(text)) == 0.5
    assert get_reward("interval")(rollout(text), "released") == -0.5  # its bound, there for Python's own parser


def test_good_form_can_be_carried_out(rollout: Build, turn: Turn) -> None:
    """Replies made of the protocol's parts in any order: +1 only for what the environment reads without complaint."""
    rng = random.Random(0)
    vtg, seg = turn()[turn().index("<VTG>") : turn().index("<RefSeg>")], "<RefSeg> [SEG] </RefSeg>"
    good = 0
    for _ in range(3000):
        pieces, weights = [vtg, seg, "<VTG>", "</VTG>", "</RefSeg>", " ", "x"], [9, 9, 1, 1, 1, 3, 1]
        body = "".join(rng.choices(pieces, weights, k=rng.randint(1, 4)))
        text = f"<think>{rng.choice(['a', '', 'no <select>'])}</think><answer>{body}</answer>"
        parsed = parse_turn(text)
        if strict(rollout(text)) == 1:
            good += 1
            assert parsed.action is not None and parsed.grounding is not None and parsed.problem is None
    assert good > 10


def test_step_format_is_the_mean_share_of_markers(rollout: Build) -> None:
    full = "<think>STEP 1 a step 2 b Step 3 c ACTION: d</think>"
    half = "<think>step 1 and action</think> Step 2 Step 3 outside do not count"
    assert step(rollout(full)) == 1
    assert step(rollout(half)) == 0.5
    assert step(rollout(full, half, "no think block, step 1")) == pytest.approx(0.5)
    assert step(rollout("<think>step 1 step 2 step 3 action")) == 0


def test_no_turn_at_all(rollout: Build) -> None:
    assert strict(rollout()) == -1 and step(rollout()) == 0
