"""Replies that could not be read: counted, with reasons, in the table, the scores and the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eval.results.record import ResultRecord, TurnRecord
from eval.results.unreadable import unreadable_counts, unreadable_lines, why_unreadable
from rollout.types import Action, StopReason
from tests.eval import eval_cli
from tests.eval.eval_cli import Started, make_root, scripted_starts
from verl_ext.cli.main import app


def record(text: str, stop: StopReason = StopReason.BAD_ACTION, action: Action | None = None) -> ResultRecord:
    turn = TurnRecord(text, action, None, 1, (0, 1), 2)
    return ResultRecord("c", "0", "x", None, "", 2, 4, 4, (0, 1), stop, (turn,), (None, None))


@pytest.mark.parametrize(
    ("text", "stop", "why"),
    [
        ("I cannot find it.", StopReason.BAD_ACTION, "no <answer> or <select>"),
        ("  ", StopReason.BAD_ACTION, "empty"),
        ("<think>and so on", StopReason.LENGTH, "cut off at the token limit"),
        ("<think>a</think><answer>?</answer>", StopReason.BAD_ACTION, "without indices or boxes"),
        (
            '<answer>{"keyframe_timestamp": 99, "bbox_2d_list": [[1, 2, 3, 4]]}</answer>',
            StopReason.BAD_ACTION,
            "second",
        ),
    ],
)
def test_why(text: str, stop: StopReason, why: str) -> None:
    assert why in why_unreadable(record(text, stop))
    assert why_unreadable(record(text, StopReason.ANSWERED, Action.ANSWER)) == ""


def test_lines() -> None:
    counts = unreadable_counts(["", "b", "a", "b"])
    assert list(unreadable_lines(counts, 4)) == ["3 of 4 replies could not be read: 2 b, 1 a"]
    assert len(list(unreadable_lines({"a": 2}, 2, "full"))) == 2 and not list(unreadable_lines({}, 2))


@pytest.mark.parametrize("benchmark", ["mine", "hidden"])
def test_an_evaluation_without_a_readable_reply_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, benchmark: str
) -> None:
    made = make_root(tmp_path / "made")
    starts = scripted_starts(monkeypatch)
    started: Started = next(starts)
    monkeypatch.setattr("tests.eval.eval_cli.box_reply", lambda *_: "I cannot find it.")
    args = ["--benchmark", made / f"{benchmark}.yaml", "--root", made]
    done = eval_cli.evaluate(made / "policy", tmp_path / "out", *args)
    assert done.exit_code == 0 and started, done.output + str(done.exception)
    n = len((tmp_path / "out" / benchmark / "results.jsonl").read_text().splitlines())
    line = f"{n} of {n} replies could not be read: {n} no <answer> or <select>"
    assert line in " ".join(done.output.split())
    if benchmark == "hidden":
        return
    scores = json.loads((tmp_path / "out" / "mine" / "scores.json").read_text())
    assert scores["info"]["unreadable"] == {"no <answer> or <select>": n}
    assert scores["info"]["protocol"]["prompt_set"] == "brief" and scores["info"]["protocol"]["prompts"]
    page = tmp_path / "page.html"
    args = ["report", str(tmp_path / "out" / "mine"), "--out", str(page), "--root", str(made / "ReVOS")]
    told = CliRunner().invoke(app, args)
    assert told.exit_code == 0, told.output
    assert line.replace("<", "&lt;").replace(">", "&gt;") in page.read_text()
