"""Traces with boxes alone, as answers that also hold ``[SEG]``."""

from __future__ import annotations

import json

import pytest

from rollout.box_protocol import BoxReply, parse_box_turn, read_box_reply
from rollout.environments.combined_answers import CombinedSettings, as_combined
from rollout.errors import DataError

SETTINGS = CombinedSettings(side=672, units="thousandths", prompts="brief")


def reply(boxes: object, think: str = "It is the cat.", **more: object) -> str:
    answer = {"keyframe_timestamp": 3, "bbox_2d_list": boxes, **more}
    return f"<think>{think}</think><answer>{json.dumps(answer)}</answer>"


def test_boxes_are_converted_and_the_mask_is_named() -> None:
    made = as_combined(reply([[0, 56, 280, 560], [14, 28, 42, 84]]), SETTINGS, side=560)
    found = read_box_reply(made)
    assert found is not None and parse_box_turn(made).problem is None
    assert found.boxes == [[0, 100, 500, 1000], [25, 50, 75, 150]]
    assert (found.timestamp, found.mask) == (3, "[SEG]")
    assert made.startswith("<think>It is the cat.</think>")


def test_pixels_of_another_square_become_those_of_ours() -> None:
    made = as_combined(reply([[0, 56, 280, 560]]), CombinedSettings(side=112, prompts="brief"), side=560)
    assert read_box_reply(made).boxes == [[0, 11, 56, 112]]  # type: ignore[union-attr]


def test_an_answer_without_a_target_has_no_mask() -> None:
    found = read_box_reply(as_combined(reply([]), SETTINGS, side=560))
    assert found is not None and found.says_nothing


@pytest.mark.parametrize("mask", ["[SEG]", None])
def test_a_reply_that_already_says_both_keeps_its_mask(mask: str | None) -> None:
    """Without a side its boxes are in the recipe's own units; with one they are converted like others."""
    written = reply([[1, 2, 3, 4]], mask=mask)
    kept, converted = (as_combined(written, SETTINGS, side=side) for side in (None, 560))
    assert kept == written
    assert read_box_reply(converted) == BoxReply(3, [[2, 4, 5, 7]], mask)


def test_without_a_side_boxes_alone_are_of_the_published_square() -> None:
    written = reply([[0, 56, 280, 560]])
    assert as_combined(written, SETTINGS, side=None) == as_combined(written, SETTINGS, side=560)


def test_boxes_stay_inside_and_objects_stay_apart() -> None:
    """Two objects of one box are two; an edge beyond the frame is at its border."""
    made = read_box_reply(
        as_combined(reply([[-3, 0, 600, 560], [280, 280, 283, 283], [280, 280, 283, 283]]), SETTINGS, 560)
    )
    assert made is not None and made.boxes == [[0, 0, 1000, 1000], [500, 500, 505, 505], [500, 500, 505, 505]]


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("<think>a</think><answer>[SEG]</answer>", "no answer with boxes"),
        (reply([[3, 2, 1, 4]]), "no answer with boxes"),
        (reply([[1, 2, 3]]), "no answer with boxes"),
        ("no form at all", "no answer with boxes"),
        ("", "no answer with boxes"),
        (reply([[1, 2, 3, 4]], mask="[SEG] and [SEG]"), "has mask"),
        (reply([[1, 2, 3, 4], [10, 560, 30, 580]]), r"box \[10, 560, 30, 580\] lies outside its square of side 560"),
        (reply([[-9, 2, -3, 4]]), "lies outside"),
    ],
)
def test_what_is_no_answer_with_boxes_is_refused(written: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        as_combined(written, SETTINGS, side=560)


def test_a_square_without_a_side_is_refused() -> None:
    with pytest.raises(DataError, match="side 0"):
        as_combined(reply([[1, 2, 3, 4]]), SETTINGS, side=0)
