"""The second model through the real client: what a reply, an endpoint and a cap do to verdicts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.data_construction.fault_server import FaultServer, running
from tests.data_construction.trace_files import planned, read, write
from verl_ext.cli.main import app

TRACES = 6
Run = Callable[..., Result]


def keep(_: dict[str, Any]) -> str:
    return json.dumps({"verdict": "keep", "reason": ""})


@pytest.fixture
def run(synthetic: Path, tmp_path: Path) -> Run:
    file = write(tmp_path / "t.jsonl", planned(synthetic)[:TRACES])

    def call(server: FaultServer, *more: str) -> Result:
        judge = ["--judge-model", "m", "--base-url", server.url, "--workers", "2"]
        given = ["data", "verify", str(file), str(tmp_path / "v"), "--root", str(synthetic), *judge, *more]
        return CliRunner().invoke(app, given)

    return call


@pytest.mark.parametrize(("fault", "reason"), [("400", "http_400"), ("cut", "truncated"), ("inside400", "http_400")])
def test_what_the_endpoint_did_not_answer_is_no_verdict_and_asked_again(
    fault: str, reason: str, run: Run, tmp_path: Path
) -> None:
    with running(FaultServer(answer=keep)) as server:
        server.faults = lambda _: fault
        first = run(server)
        assert first.exit_code == 1 and not read(tmp_path / "v/rejected.jsonl")
        said = f"{TRACES} have no verdict ({TRACES} {reason}); the same command asks again"
        assert said in " ".join(first.stdout.split()) and not read(tmp_path / "v/verified.jsonl")
        server.faults, asked = lambda _: None, sum(server.bodies.values())
        second = run(server)
        assert second.exit_code == 0 and sum(server.bodies.values()) == asked + TRACES
    assert [d["id"] for d in read(tmp_path / "v/verified.jsonl")] == [d["id"] for d in read(tmp_path / "t.jsonl")]


@pytest.mark.parametrize(("times", "verified"), [(1, TRACES), (2, TRACES - 1)])
def test_a_reply_without_a_verdict_is_asked_for_once_more(times: int, verified: int, run: Run, tmp_path: Path) -> None:
    with running(FaultServer()) as server:
        unsure: list[str] = []

        def answer(body: dict[str, Any]) -> str:
            question = json.dumps(body["messages"])
            if not unsure or (unsure[0] == question and len(unsure) < times):
                unsure.append(question)
                return json.dumps({"verdict": "maybe", "reason": "who knows"})
            return keep(body)

        server.answer = answer
        assert run(server).exit_code == 0
        assert sum(server.bodies.values()) == TRACES + 1
    assert len(read(tmp_path / "v/verified.jsonl")) == verified
    assert all(d["check"] == "judge" and "maybe" in d["reason"] for d in read(tmp_path / "v/rejected.jsonl"))


def test_a_cap_settles_what_runs_and_counts_earlier_runs(run: Run, tmp_path: Path) -> None:
    money = ["--prices", "0", "25000", "--max-cost"]  # One unit a reply; 512 tokens are set aside for each.
    with running(FaultServer(answer=keep)) as server:
        first = run(server, *money, "14.5")
        assert first.exit_code == 1 and "stopped: spend cap 14.5 reached" in first.stdout
        judged = read(tmp_path / "v/verified.jsonl")
        assert 0 < len(judged) < TRACES and f"cost {len(judged):.4f}" in first.stdout
        assert len(read(tmp_path / "v/judge_spent.jsonl")) == len(judged)
        again = run(server, *money, "14.5")  # The money of the first run is gone.
        assert again.exit_code == 1 and f"with earlier runs {len(judged):.4f}" in again.stdout
        last = run(server, *money, "99", "--json")
        assert last.exit_code == 0 and sum(server.bodies.values()) == TRACES
    figures = json.loads(last.stdout)["judge"]
    assert figures["cost_with_earlier_runs"] == TRACES and figures["seconds"] >= 0


def test_a_wrong_key_ends_the_job_with_its_sentence(run: Run, tmp_path: Path) -> None:
    with running(FaultServer(lambda _: "401")) as server:
        told = run(server)
    assert told.exit_code == 2 and "the key is not accepted" in told.stderr
    assert not read(tmp_path / "v/verified.jsonl") and not read(tmp_path / "v/rejected.jsonl")
