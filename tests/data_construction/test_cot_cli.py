"""``videoseg data cot`` from the outside: exit codes, what it prints, what it never writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from data_construction.readers import open_dataset, read_vts_cot
from tests.data_construction.cot_jobs import lines
from tests.data_construction.fault_server import FaultServer, running
from verl_ext.cli.main import app

SECRET = "sk-a-key-nobody-may-see-987"
ROOT = Path(__file__).parents[2]


def run(command: str, root: Path, out: Path, *more: str) -> Result:
    given = ["data", "cot", command, "revos", str(root), "--out", str(out), "--model", "m", *more]
    return CliRunner().invoke(app, given)


def test_a_dry_run_a_run_and_a_second_one(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", SECRET)
    out = tmp_path / "out"
    with running(FaultServer()) as server:
        where = ["--base-url", server.url, "--api-key-env", "SOME_KEY", "--prices", "1", "10", "--side", "56"]
        dry = run("seed", tiny, out, *where, "--dry-run", "--limit", "5")
        assert dry.exit_code == 0 and not out.exists() and not server.bodies
        assert "5 items, 0 of them already there; 5 requests" in dry.output and "cost at most about 0.05" in dry.output
        done = run("seed", tiny, out, *where, "--limit", "5")
        again = run("seed", tiny, out, *where, "--limit", "5")
    assert done.exit_code == again.exit_code == 0
    assert "5 of 5 traces (5 made now)" in done.output and "5 answered, 0 from the cache" in done.output
    assert "5 of 5 traces (0 made now)" in again.output and "cost 0.0000, with earlier runs 0.0026" in again.output
    assert server.headers["authorization"] == f"Bearer {SECRET}"
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    assert SECRET not in done.output


def test_items_without_trace_are_told_and_the_exit_code_is_one(broken: Path, tmp_path: Path) -> None:
    data = open_dataset("revos", broken, "train")
    Path(data.clip(data.clips()[0]).frames[0]).unlink()
    with running(FaultServer()) as server:
        where = ["--base-url", server.url, "--recipe", str(ROOT / "recipes/quickstart/cold_start.yaml")]
        result = run("vts", broken, tmp_path / "out", *where)
    failed = lines(tmp_path / "out" / "failed.jsonl")
    assert result.exit_code == 1 and len(failed) == len(data.expressions(data.clips()[0]))
    assert f"set aside, bad data: {len(failed)} ({len(failed)} " in result.output
    assert f"{len(data) - len(failed)} of {len(data)} traces" in result.output
    records = read_vts_cot(tmp_path / "out" / "vts_cot.json")
    assert records and max(len(r.replies) for r in records) == 2  # The recipe's max_turns, and its few words.
    assert records[0].conversations[0] == ("system", "segment")


def test_a_cap_and_a_wrong_key_end_with_a_sentence(tiny: Path, tmp_path: Path) -> None:
    with running(FaultServer()) as server:
        money = ["--prices", "0", "25000", "--max-tokens", "40", "--max-cost", "3.5", "--workers", "1"]
        capped = run("vts", tiny, tmp_path / "a", "--base-url", server.url, *money)
        assert capped.exit_code == 1 and "stopped: spend cap 3.5 reached" in capped.output
        server.faults = lambda _: "401"
        wrong = run("vts", tiny, tmp_path / "b", "--base-url", server.url)
        assert wrong.exit_code == 2 and "the key is not accepted" in wrong.output and "Traceback" not in wrong.output
        assert run("vts", tiny, tmp_path / "c", "--base-url", server.url, "--max-cost", "1").exit_code == 2
        assert run("vts", tiny, tmp_path / "c", "--base-url", server.url, "--turns", "a,b").exit_code == 2


def test_only_the_sampled_ids_are_made(tiny: Path, tmp_path: Path) -> None:
    data = open_dataset("revos", tiny, "train")
    clip = data.clips()[1]
    chosen = [(clip, e.id) for e in data.expressions(clip)[1:3]]
    ids = tmp_path / "ids.jsonl"
    ids.write_text("".join(json.dumps({"clip": c, "expression_id": e}) + "\n" for c, e in chosen))
    with running(FaultServer()) as server:
        result = run("vts", tiny, tmp_path / "out", "--base-url", server.url, "--only", str(ids))
        ids.write_text('{"id": "3"}\n')
        refused = run("vts", tiny, tmp_path / "out", "--base-url", server.url, "--only", str(ids))
        ids.write_text(json.dumps({"clip": clip, "expression_id": "1"}) + '\n{"clip": "gone", "expression_id": "7"}\n')
        unknown = run("vts", tiny, tmp_path / "new", "--base-url", server.url, "--only", str(ids))
    assert unknown.exit_code == 2 and not (tmp_path / "new").exists()
    assert "line 2: clip 'gone', expression '7' is not in revos, split train" in " ".join(unknown.output.split())
    assert result.exit_code == 0
    assert [(t["clip"], t["expression_id"]) for t in lines(tmp_path / "out" / "traces.jsonl")] == chosen
    assert refused.exit_code == 2 and "line 1" in refused.output


def test_making_traces_needs_no_torch() -> None:
    code = (
        "import sys; import verl_ext.cli.main, verl_ext.cli.cot_jobs, data_construction.cot.vts, "
        "data_construction.cot.seed, data_construction.generate, data_construction.vlm.trouble, "
        "data_construction.cot.released\n"
        "bad = {'torch', 'verl', 'vllm', 'ray', 'transformers'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
