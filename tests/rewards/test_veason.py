"""Veason-R1's rewards by numbers; the fixture has one object of area 50 at second 3, absent at second 8."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from rewards import VEASON_REWARDS, BoxRewardInput, compute_rewards, get_reward
from rewards.veason import matched_boxes
from rewards.veason.matching import box_ious
from rollout.errors import ProtocolError

Build = Callable[..., BoxRewardInput]
TRUE_BOX = [10, 10, 19, 19]


def reply(boxes: Any, timestamp: Any = 3) -> str:
    body = json.dumps({"keyframe_timestamp": timestamp, "bbox_2d_list": boxes})
    return f"<think>because</think>\n<answer>{body}</answer>"


def score(x: BoxRewardInput, variant: Any = "intended") -> tuple[float, ...]:
    out = compute_rewards(x, VEASON_REWARDS, variant)
    return tuple(out[name] for name in VEASON_REWARDS)


def test_ground_truth_earns_full_marks(box_reply: Build) -> None:
    x = box_reply(reply([TRUE_BOX]), frame_ious=[1.0, 1.0])
    assert score(x) == (2.0, 1.0, 1.0, 1.0) and score(x, "released") == (2.0, 1.0, 1.0, 1.0)
    assert matched_boxes(x) == [tuple(TRUE_BOX)]


def test_inclusive_pixels() -> None:
    # 10 x 10 and 10 x 10 pixels that share 5 x 10
    assert box_ious([(10, 10, 19, 19)], [(15, 10, 24, 19)])[0, 0] == pytest.approx(50 / 150)
    assert box_ious([(3, 3, 3, 3)], [(3, 3, 3, 3)])[0, 0] == 1  # one pixel
    assert box_ious([(0, 0, 4, 4)], [(5, 0, 9, 4)])[0, 0] == 0  # neighbours


def test_matching_is_optimal_not_greedy(box_reply: Build) -> None:
    truth = [[0, 0, 9, 9], [0, 5, 9, 14]]
    predicted = [[0, 3, 9, 12], [0, 0, 9, 9]]
    x = box_reply(reply(predicted), gt_boxes=[truth, []])
    ious = box_ious([tuple(b) for b in predicted], [tuple(b) for b in truth])  # type: ignore[misc]
    assert get_reward("veason_spatial")(x) == pytest.approx((ious[0, 1] + ious[1, 0]) / 2)
    assert matched_boxes(x) == [tuple(b) for b in predicted]


def test_surplus_boxes_cost_and_do_not_reach_the_segmenter(box_reply: Build) -> None:
    x = box_reply(reply([[100, 100, 120, 120], TRUE_BOX]))
    assert score(x) == (2.0, 1.0, 0.5, 0.75)
    assert matched_boxes(x) == [tuple(TRUE_BOX)]


def test_missing_boxes_cost(box_reply: Build) -> None:
    x = box_reply(reply([TRUE_BOX]), gt_boxes=[[TRUE_BOX, [40, 40, 50, 50]], []])
    assert get_reward("veason_spatial")(x) == 0.5


@pytest.mark.parametrize("bad", [[1, 2, 3], "box", None, {"a": 1}, [1, 2, 3, "4"], [[1, 2, 3, 4]]])
def test_one_malformed_box(box_reply: Build, bad: Any) -> None:
    x = box_reply(reply([TRUE_BOX, bad]))
    assert score(x) == (1.5, 1.0, 0.5, 0.75)  # the good box is still worth half
    assert matched_boxes(x) == [tuple(TRUE_BOX)]
    assert score(x, "released") == (1.5, 1.0, 0.0, 0.0)
    assert matched_boxes(x, "released") is None


def test_inverted_box_is_four_numbers_but_encloses_nothing(box_reply: Build) -> None:
    x = box_reply(reply([[19, 10, 10, 19]]))
    assert score(x) == (2.0, 1.0, 0.0, 0.0)
    assert matched_boxes(x) is None
    assert matched_boxes(x, "released") == [(19, 10, 10, 19)]


def test_released_zero_union_scores_nothing(box_reply: Build) -> None:
    x = box_reply(reply([[29, 10, 18, 19]]))  # area -100 cancels the object's 100
    assert score(x, "released") == (2.0, 1.0, 0.0, 0.0)
    assert matched_boxes(x, "released") is None


def test_empty_list(box_reply: Build) -> None:
    x = box_reply(reply([]))
    assert score(x) == (1.0, 1.0, 0.0, 0.0) and score(x, "released") == (1.0, 1.0, 0.0, 0.0)
    nowhere = box_reply(reply([]), gt_boxes=[[], []], areas=[0, 0], frame_ious=None)
    assert score(nowhere) == (1.0, 0.0, 1.0, 1.0)
    assert score(nowhere, "released") == (1.0, 0.0, 0.0, 0.0)


def test_absent_object_is_not_a_box_to_hit(box_reply: Build) -> None:
    x = box_reply(reply([[0, 0, 0, 0]], timestamp=8))
    assert get_reward("veason_spatial")(x, "released") == 1.0
    assert get_reward("veason_spatial")(x) == 0.0
    assert matched_boxes(x) is None


@pytest.mark.parametrize(
    ("timestamp", "frame_found", "form"),
    [(3, True, 2.0), ("3", True, 1.0), (3.0, True, 1.0), (4, False, 2.0), (None, False, 1.0), ([3], False, 1.0),
     (-1, False, 2.0), ("x", False, 1.0)],
)  # fmt: skip
def test_timestamps(box_reply: Build, timestamp: Any, frame_found: bool, form: float) -> None:
    x = box_reply(reply([TRUE_BOX], timestamp))
    found = float(frame_found)
    assert score(x) == (form, found, found, 0.75 * found)
    assert score(x, "released") == score(x)


def test_variants_differ_on_odd_numbers(box_reply: Build) -> None:
    cut = box_reply(reply([TRUE_BOX], 3.9))
    assert get_reward("veason_keyframe")(cut) == 0 and get_reward("veason_keyframe")(cut, "released") == 1
    nan = box_reply(reply([[10, 10, float("nan"), 19]]))
    assert score(nan) == (1.0, 0.0, 0.0, 0.0)  # NaN is not JSON
    assert score(nan, "released") == (2.0, 1.0, 0.0, 0.0)
    truth = box_reply(reply([[True, 10, 19, 19]]))
    assert get_reward("veason_format")(truth) == 1 and get_reward("veason_format")(truth, "released") == 2


def test_format_wants_nothing_around_the_tags(box_reply: Build) -> None:
    text = reply([TRUE_BOX])
    assert get_reward("veason_format")(box_reply(text + " so there")) == 1.0
    assert get_reward("veason_format")(box_reply(text.replace("</think>", ""))) == 1.0
    assert get_reward("veason_format")(box_reply("<think></think><answer></answer>")) == 1.0
    assert get_reward("veason_format")(box_reply("")) == 0.0


def test_keyframe_is_relative_to_the_largest_area(box_reply: Build) -> None:
    x = box_reply(reply([TRUE_BOX]), areas=[50, 200])
    assert get_reward("veason_keyframe")(x) == 0.25


def test_boxes_without_segmenter_results_are_our_mistake(box_reply: Build) -> None:
    with pytest.raises(ProtocolError, match=r"matched_boxes\(x\)"):
        get_reward("veason_consistency")(box_reply(reply([TRUE_BOX]), frame_ious=None))
    assert get_reward("veason_consistency")(box_reply("nonsense", frame_ious=None)) == 0
