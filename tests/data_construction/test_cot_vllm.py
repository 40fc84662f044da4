"""Traces from vLLM's own OpenAI server, with the tiny policy: the one endpoint that every user can start."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data_construction.readers import read_vts_cot
from rollout.box_protocol import parse_box_turn
from rollout.protocol import parse_turn
from tests.data_construction.cot_jobs import lines
from verl_ext.cli.main import app

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.e2e


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="module")
def url(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from eval.inference.worker import cpu_environment

    port, log = free_port(), tmp_path_factory.mktemp("vllm") / "log"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(tiny_policy)]
    command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--max-model-len", "6144", "--max-num-seqs", "8", "--enforce-eager", "--seed", "0"]
    command += ["--limit-mm-per-prompt", '{"image": 64, "video": 0}']
    with log.open("wb") as out:
        environment = {**os.environ, **cpu_environment()}
        server = subprocess.Popen(
            command, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            deadline = time.monotonic() + 450
            while not answers(f"http://127.0.0.1:{port}/health"):
                assert server.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(1.0)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, 9)


@pytest.mark.timeout(900)
def test_an_untrained_model_under_a_schema_writes_traces_that_hold_together(
    url: str, tiny_data: Path, tmp_path: Path
) -> None:
    """It knows no words, but the decoder is held to the schema: records, protocol and counts must be right."""
    shared = ["--model", "tiny", "--base-url", url, "--limit", "4", "--max-chars", "12", "--max-tokens", "256"]
    shared += ["--workers", "4", "--timeout", "300", "--prices", "1", "1", "--structured", "schema"]
    recipe = ["--recipe", str(ROOT / "recipes/quickstart/cold_start.yaml")]
    where = ["revos", str(tiny_data)]
    vts = CliRunner().invoke(app, ["data", "cot", "vts", *where, "--out", str(tmp_path / "vts"), *recipe, *shared])
    assert vts.exit_code == 0, vts.output
    records = read_vts_cot(tmp_path / "vts" / "vts_cot.json")
    assert len(records) == 4
    for record in records:
        assert all(parse_turn(reply).problem is None for reply in record.replies)
    side = ["--side", "112", "--frames", "4"]
    seed = CliRunner().invoke(app, ["data", "cot", "seed", *where, "--out", str(tmp_path / "seed"), *side, *shared])
    assert seed.exit_code == 0, seed.output
    traces = lines(tmp_path / "seed" / "traces.jsonl")
    assert len(traces) == 4
    loose = ["--min-words", "0", "--duplicate", "2"]  # What it says means nothing; what was planned must hold.
    for check in ("overlay_leak", "refusal", "unshown_frames", "visibility_claims", "vocabulary"):
        loose += ["--skip", check]
    for name in ("vts", "seed"):
        verified = tmp_path / name / "verified"
        checked = ["data", "verify", str(tmp_path / name), str(verified), "--root", str(tiny_data), *loose]
        judged = CliRunner().invoke(app, checked)
        assert judged.exit_code == 0 and len(lines(verified / "verified.jsonl")) == 4, judged.output
        for to in ("verl", "sharegpt", "vts_cot"):
            given = ["data", "export", str(tmp_path / name), str(tmp_path / to / name), "--to", to]
            written = CliRunner().invoke(app, [*given, "--root", str(tiny_data)])
            assert written.exit_code == 0 and "4 traces of" in written.output, written.output
    for trace in traces:
        assert parse_box_turn(trace["record"]["conversations"][-1]["value"]).problem is None
        assert trace["usage"]["prompt_tokens"] > 100 and trace["usage"]["cost"] > 0
