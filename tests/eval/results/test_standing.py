"""Which turn of a record's dialogue counts, where its policy judged its own masks."""

from __future__ import annotations

import json

import pytest

from eval.results.record import ResultRecord, TurnRecord
from rollout.types import Action, StopReason

BOX = '<think>a</think><answer>{"keyframe_timestamp": 1, "bbox_2d_list": [[1, 2, 3, 4]]}</answer>'
FIRST = TurnRecord(BOX, Action.ANSWER, None, 1, (0, 1), 2)
CONFIRM = TurnRecord("<answer>confirm</answer>", Action.ANSWER, None, 1, (0, 1), 2)


def record(*turns: TurnRecord, verdict: str | None = None) -> ResultRecord:
    said, empty = StopReason.ANSWERED, (None,) * 3
    return ResultRecord("c", "0", "x", None, "", 3, 4, 5, (0, 1), said, turns, empty, verdict=verdict)


@pytest.mark.parametrize(
    ("verdict", "last", "stands", "chosen"),
    [
        ("confirmed", CONFIRM, FIRST, 1),
        ("unread", TurnRecord("mumble", None, None, 1, (0, 1), 2), FIRST, 1),
        ("corrected", TurnRecord(BOX, Action.ANSWER, None, 2, (0, 1), 2), None, 2),
        ("no_target", CONFIRM, None, None),
    ],
)
def test_the_answer_that_stands(verdict: str, last: TurnRecord, stands: TurnRecord | None, chosen: int | None) -> None:
    found = record(FIRST, last, verdict=verdict)
    assert found.standing == (stands or last) and found.chosen == chosen
    assert (
        ResultRecord.from_dict(json.loads(json.dumps(found.to_dict())), "line 1") == found
        and found.to_dict()["verdict"] == verdict
    )


def test_a_dialogue_without_a_verdict_is_as_before() -> None:
    found = record(FIRST)
    assert found.standing == FIRST and found.chosen == 1 and "verdict" not in found.to_dict()
    assert record().standing is None
