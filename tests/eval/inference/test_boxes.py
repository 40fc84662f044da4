"""Answers of a keyframe and boxes (Veason-R1), as the environment records them, in scores and reports."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from eval.inference.dialogue import Dialogue
from eval.inference.pipeline import record_of
from eval.inference.worker import converse
from eval.report import ReportInput, ReportStage, build_report
from eval.report.clips import strip_frames
from eval.results.record import ResultRecord
from eval.scores.files import scores_table
from eval.scores.in_memory import score_results
from rollout.chat_format import ChatFormat
from rollout.episode import scripted
from rollout.errors import RecipeError
from rollout.types import Sample
from tests.eval.clips import samples
from tests.eval.scripted import BOXES, box_reply
from verl_ext.tiny.tokenizer import train_tokenizer

TOKENIZER = train_tokenizer(["find the disk 0 1 2 3 4 5 6 7 8 9"], merges=20, numbers=16)
CHAT = ChatFormat.from_tokenizer(TOKENIZER, patch=14, merge=2)


@pytest.fixture
def targets(tmp_path: Path) -> list[Sample]:
    """Visible in frames 3 to 7 of ten; shown are 0, 3, 6 and 9."""
    return [s for s in samples(tmp_path / "frames") if s.expression.type_id != 2]


def ask(sample: Sample, reply: str, **limits: int) -> ResultRecord:
    """What evaluation writes for this reply, with the true masks."""
    assert sample.masklets is not None
    policy = scripted(SimpleNamespace(tokenizer=TOKENIZER, chat=CHAT), [reply])  # type: ignore[arg-type]
    settings = replace(BOXES, **limits)
    episode, _ = asyncio.run(converse(replace(sample, masklets=None), settings, None, TOKENIZER, CHAT, policy))
    return record_of(sample, Dialogue(episode, [None], 1), list(sample.masklets.rles[0]), None)


def test_the_chosen_frame_is_judged_and_no_interval(targets: list[Sample]) -> None:
    boxes = [10, 10, 60, 60]
    replies = [box_reply(6, boxes), box_reply(9, boxes), box_reply(4, boxes), "I do not know"]
    records = [ask(sample, reply) for sample, reply in zip(targets, replies, strict=False)]
    assert [r.chosen for r in records] == [6, 9, 4, None], "as released, also a second that was not shown"
    scores = score_results(records, targets[:5])
    assert [row.keyframe_hit for row in scores.expressions] == [100.0, 0.0, 100.0, 0.0, 0.0], "the fifth is missing"
    assert [row.interval_iou for row in scores.expressions] == [None] * 5
    assert scores.overall.metrics["interval_iou"].n == 0 and scores.overall.metrics["keyframe_hit"].mean == 40.0
    assert "interval" not in scores_table(scores) and "keyframe" in scores_table(scores)


def test_the_report_marks_the_keyframe_and_misses_no_interval(targets: list[Sample], tmp_path: Path) -> None:
    record = ask(targets[0], box_reply(6, [10, 10, 60, 60]))
    assert 6 in strip_frames([record])
    stage = ReportStage("rl", "RL", score_results([record], targets[:1]), [record], targets[:1])
    page = build_report(ReportInput("run", {}, [stage]), tmp_path / "r.html").read_text()
    text = " ".join(re.sub(r"<[^>]+>", " ", page.partition("</style>")[2]).split())
    assert "Turn 1: answer keyframe 6" in text and "key 6" in text
    assert "parses" not in text and "no frame chosen" not in text
    assert page.count('class="keyframe"') == 1, "a mark on the timeline"
    lost = ask(targets[0], box_reply(50, [10, 10, 60, 60]))
    stage = replace(stage, records=[lost], scores=score_results([lost], targets[:1]))
    page = build_report(ReportInput("run", {}, [stage]), tmp_path / "r.html").read_text()
    assert "a time at which no frame was shown" in page


def test_a_first_message_that_does_not_fit_is_no_dialogue(targets: list[Sample]) -> None:
    with pytest.raises(RecipeError, match=rf"{targets[0].id}: the first message .* rollout\.prompt_length 40 tokens"):
        ask(targets[0], box_reply(6), max_prompt_tokens=40)
