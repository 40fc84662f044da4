"""Traces with boxes alone, as answers that also hold ``[SEG]``."""

from __future__ import annotations

import json

import pytest

from rollout.box_protocol import parse_box_turn, read_box_reply
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
def test_a_reply_that_already_says_both_is_left_alone(mask: str | None) -> None:
    written = reply([[1, 2, 3, 4]], mask=mask)
    assert as_combined(written, SETTINGS, side=560) == written


@pytest.mark.parametrize(
    "written",
    ["<think>a</think><answer>[SEG]</answer>", reply([[3, 2, 1, 4]]), reply([[1, 2, 3]]), "no form at all", ""],
)
def test_what_is_no_answer_with_boxes_is_refused(written: str) -> None:
    with pytest.raises(DataError, match="no answer with boxes"):
        as_combined(written, SETTINGS, side=560)
