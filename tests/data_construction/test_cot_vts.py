"""VideoSEG-O3's traces: the released record, the environment's own frames, and what each turn's request holds."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_construction.cot.vts_plan import VTSSettings
from data_construction.generate import Again, run_job
from data_construction.readers import VTSCoTRecord, open_dataset, read_vts_cot
from data_construction.readers.records import read_rl_annotations
from rollout import ChatFormat, Conversation, StopReason, replay
from rollout.environments.keyframe_exploration import KeyframeExploration
from rollout.errors import DataError
from rollout.protocol import parse_turn
from rollout.types import Action
from tests.data_construction.cot_jobs import SMALL, lines, vts_job
from tests.data_construction.fault_server import FaultServer, running, sensible
from tests.rollout.helpers import build_tokenizer

Made = tuple[Path, list[dict[str, Any]], FaultServer]
GUESSES = VTSSettings(SMALL, turns=(0.1, 0.4, 0.5), recover=0.5, max_chars=200)


@pytest.fixture(scope="module")
def made(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    out = tmp_path_factory.mktemp("vts")
    with running(FaultServer(keep=True)) as server:
        summary, _ = run_job(vts_job(synthetic, out, server.url, {"limit": 60}, GUESSES))
    assert summary.complete
    return out, lines(out / "traces.jsonl"), server


def images(message: dict[str, Any]) -> list[str]:
    content = message["content"]
    return [] if isinstance(content, str) else [p["image_url"]["url"] for p in content if p["type"] == "image_url"]


def task_of(request: dict[str, Any]) -> str:
    return str(request["messages"][-1]["content"][-1]["text"])


def dialogues(made: Made) -> list[tuple[VTSCoTRecord, list[dict[str, Any]]]]:
    """Each record with the requests of its turns: the server's words hold a digest of what it was asked."""
    by_mark = {sensible(r).partition("as ")[2][:6]: r for r in made[2].requests}
    records = [VTSCoTRecord.from_dict(t["record"]) for t in made[1]]
    return [(r, [by_mark[reply.partition("as ")[2][:6]] for reply in r.replies]) for r in records]


def test_records_are_the_released_ones_and_read_back(made: Made, synthetic: Path) -> None:
    out, traces, _ = made
    records = read_vts_cot(out / "vts_cot.json")
    assert [replace(r, kind=t["kind"]).to_dict() for r, t in zip(records, traces, strict=True)] == [
        t["record"] for t in traces
    ]
    keys = ["video_name", "frames", "exp", "anno_id", "sample_frame_indice", "cot_trace", "conversations"]
    assert all(list(raw) == keys for raw in json.loads((out / "vts_cot.json").read_text()))
    assert any(t["record"].get("kind") for t in traces)  # What we know beside stays in the trace file.
    assert all(t["shown"] == {"low": 4, "spatial": 8, "keyframe": 16} for t in traces)
    assert {len(r.replies) for r in records} == {1, 2, 3}
    data = open_dataset("revos", synthetic, "train")
    annotated = list(read_rl_annotations(out / "rl_annotations.json", data))  # Raises where existence is wrong.
    assert [s.expression.text for s in annotated] == [r.exp for r in records]


def test_replies_keep_the_plan_and_carry_the_models_thinking(made: Made) -> None:
    for trace in made[1]:
        record = VTSCoTRecord.from_dict(trace["record"])
        for n, (reply, chosen) in enumerate(zip(record.replies, record.cot_trace, strict=True)):
            parsed = parse_turn(reply)
            assert parsed.problem is None and parsed.grounding == chosen and parsed.think is not None
            assert parsed.action is (Action.ANSWER if n == len(record.replies) - 1 else Action.SELECT)
            steps = (
                r"Step 1: The temporal is .* Step 2: The spatial is .* Step 3: The language is .* Action: The action"
            )
            assert re.match(steps, parsed.think)
    guesses = [t for t in made[2].requests if "a guess that the next frames will prove poor" in task_of(t)]
    recoveries = [t for t in made[2].requests if "The choice of the turn before was poor" in task_of(t)]
    assert guesses and recoveries


def test_the_real_environment_shows_what_the_record_says(made: Made, synthetic: Path) -> None:
    data, tokenizer = open_dataset("revos", synthetic, "train"), build_tokenizer()
    chat = ChatFormat.from_tokenizer(tokenizer)
    for trace in made[1][:20]:
        record = VTSCoTRecord.from_dict(trace["record"])
        sample = data.get(trace["clip"], trace["expression_id"])
        shown = {"spatial_frames": record.sample_frame_indice, "trace": record.selections}
        environment = KeyframeExploration(sample, SMALL, **shown)  # type: ignore[arg-type]
        conversation = Conversation(tokenizer, chat, sample.clip, 100_000)
        episode = replay(environment, conversation, record.replies)
        assert episode.stop is StopReason.ANSWERED and len(episode.turns) == len(record.replies)
        humans = [v for who, v in record.conversations if who == "human"]
        assert [h.count("<image>") for h in humans] == [len(t.shown) for t in episode.turns]


def test_each_request_holds_the_frames_of_its_turn_and_no_later_ones(made: Made) -> None:
    found = dialogues(made)
    assert len(found) == 60
    for record, requests in found:
        humans = [v for who, v in record.conversations if who == "human"]
        for n, request in enumerate(requests):
            users = [m for m in request["messages"] if m["role"] == "user"]
            assert len(users) == n + 1
            assert [len(images(u)) for u in users] == [h.count("<image>") for h in humans[: n + 1]]
            assert [m["content"] for m in request["messages"] if m["role"] == "assistant"] == record.replies[:n]
            g = record.cot_trace[n]
            assert f"frames {g.start} to {g.end}" in task_of(request)


def test_marks_are_shown_unless_the_turn_is_to_guess(synthetic: Path, tmp_path: Path) -> None:
    sent = {}
    for marks in (True, False):
        with running(FaultServer(keep=True)) as server:
            settings = replace(GUESSES, marks=marks)
            run_job(vts_job(synthetic, tmp_path / str(marks), server.url, {"limit": 25}, settings))
        first = [r for r in server.requests if len(r["messages"]) == 2]
        # Same frames, same words: only marks can make the pictures differ.
        sent[marks] = {task_of(r) + r["messages"][1]["content"][-2]["text"]: images(r["messages"][1]) for r in first}
    assert sent[True].keys() == sent[False].keys()
    guess = "a guess that the next frames will prove poor"
    same = {key: sent[True][key] == sent[False][key] for key in sent[True]}
    assert any(guess in key for key in same) and all(same[key] for key in same if guess in key)
    assert sum(not s for s in same.values()) >= 8


def test_rejected_traces_are_asked_for_again_up_to_a_limit(tiny: Path, tmp_path: Path) -> None:
    out, verified = tmp_path / "out", tmp_path / "verified"
    verified.mkdir()
    with running(FaultServer(keep=True)) as server:
        run_job(vts_job(tiny, out, server.url, {"limit": 4}))
        first = lines(out / "traces.jsonl")
        rejected, data = first[:2], open_dataset("revos", tiny, "train")
        for attempt in (2, 3, 4):
            retry = [{"id": t["id"], "attempt": t["attempt"], "reason": "too short"} for t in rejected]
            (verified / "retry.jsonl").write_text("".join(f"{json.dumps(t)}\n" for t in retry))
            again = Again.of_folder(verified, 3, data)
            asked = len(server.requests)
            summary, _ = run_job(vts_job(tiny, out, server.url, {"again": again}))
            assert summary.made == (2 if attempt <= 3 else 0)
            assert all("turned down for this reason: too short" in task_of(r) for r in server.requests[asked:])
            rejected = [t for t in lines(out / "traces.jsonl") if t["attempt"] == attempt] or rejected
    base = first[0]["id"]
    assert [t["id"] for t in lines(out / "traces.jsonl")][:3] == [base, f"{base}#2", f"{base}#3"]
    released = read_vts_cot(out / "vts_cot.json")  # One an expression: the last attempt.
    assert len(released) == 4 and released[0].replies == [
        c["value"] for c in lines(out / "traces.jsonl")[2]["record"]["conversations"] if c["from"] == "gpt"
    ]
    (verified / "retry.jsonl").write_text(json.dumps({"id": f"{base}#3"}) + "\n")
    assert Again.of_folder(verified, 9, data).wanted == {base: (4, "")}


def test_what_the_data_set_does_not_hold_is_not_made_again(tiny: Path, tmp_path: Path) -> None:
    data, path = open_dataset("revos", tiny, "train"), tmp_path / "retry.jsonl"
    with pytest.raises(DataError, match=r"retry\.jsonl: no such file"):
        Again.of_folder(tmp_path, 3, data)
    known = f"revos/train/{data.clips()[0]}/{data.expressions(data.clips()[0])[0].id}"
    ours = [{"id": known, "dataset": "revos", "split": "train"}]
    other = {"id": "mevis/train/a/0", "dataset": "mevis", "split": "train"}
    path.write_text("".join(json.dumps(d) + "\n" for d in (other, *ours)))
    assert Again.of_folder(tmp_path, 3, data).wanted.keys() == {known}  # Traces of two data sets, verified together.
    for lines_there in ([other], [*ours, {"id": "revos/train/gone/7", "dataset": "revos", "split": "train"}]):
        path.write_text("".join(json.dumps(d) + "\n" for d in lines_there))
        with pytest.raises(DataError, match=rf"retry\.jsonl, line {len(lines_there)}: '.*' is no expression of revos"):
            Again.of_folder(tmp_path, 3, data)
