"""The commands one after the other, as a data engineer types them, against a model on loopback."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from data_construction.readers import read_vts_cot
from tests.data_construction.fault_server import FaultServer, running, sensible
from tests.data_construction.trace_files import boxed, planned, read, write
from verl_ext.cli.main import app
from verl_ext.recipe import DataSource
from verl_ext.run.sources import _traces


def invoke(*args: Any, code: int | None = 0) -> Any:
    result = CliRunner().invoke(app, ["data", *(str(a) for a in args)])
    if code is not None:
        assert result.exit_code == code, result.output
    return result


def leaky(body: dict[str, Any]) -> str:
    """A model that writes; every third text mentions the rectangle until told not to. And a judge that likes it all."""
    text = json.dumps(body["messages"])
    if "annotator who was to find" in text:
        return json.dumps({"verdict": "keep", "reason": ""})
    fields = json.loads(sensible(body))
    first = next(iter(fields))
    if "was turned down" not in text and sum(fields[first].encode()) % 3 == 0:
        fields[first] += " It sits in the red box."
    return json.dumps(fields)


def test_from_sample_to_gallery(synthetic: Path, tmp_path: Path) -> None:
    ids = tmp_path / "ids.jsonl"
    sampled = invoke("sample", "revos", synthetic, "--size", 12, "--ids", ids, "--no-annotations", "--per-clip", 3)
    assert "12 of" in sampled.output and len(read(ids)) == 12
    with running(FaultServer(answer=leaky)) as server:
        model = ["--model", "m", "--base-url", server.url]
        cot = ["cot", "vts", "revos", synthetic, *model, "--only", ids, "--out", tmp_path / "vts"]
        invoke(*cot)
        checked = [tmp_path / "vts", tmp_path / "v", "--root", synthetic, "--json"]
        judge = ["--judge-model", "m", "--base-url", server.url]
        first = json.loads(invoke("verify", *checked, *judge).stdout)
        assert 0 < first["rejected"]["overlay_leak"] < 12 and first["to_retry"] >= first["rejected"]["overlay_leak"]
        invoke(*cot, "--again", tmp_path / "v")
        second = json.loads(invoke("verify", *checked, *judge).stdout)
    assert second["verified"] > first["verified"] and second["to_retry"] < first["to_retry"]
    assert first["judge"]["answered"] == first["verified"] and second["judge"]["answered"] == 0
    assert {d["id"].partition("#")[0] for d in read(tmp_path / "v/verified.jsonl")} <= {d["id"] for d in read(ids)}
    root = ["--root", synthetic]
    told = invoke("export", tmp_path / "vts", tmp_path / "out", "--to", "verl", *root, code=2).stderr
    assert "not verified" in told and "--unverified" in told and not (tmp_path / "out").exists()
    exported = invoke("export", tmp_path / "v", tmp_path / "out", "--to", "verl", *root)
    assert f"{second['verified']} traces" in exported.output
    invoke("export", tmp_path / "out/train.parquet", tmp_path / "back.jsonl", "--to", "traces")
    assert read(tmp_path / "back.jsonl") == read(tmp_path / "v/verified.jsonl")
    invoke("export", tmp_path / "v", tmp_path / "out", "--to", "vts_cot", *root)
    assert len(read_vts_cot(tmp_path / "out/vts_cot_train.json")) == second["verified"]
    page = invoke("view", tmp_path / "v", tmp_path / "page.html", *root, "--verdict", "rejected")
    assert "traces" in page.output and "red box" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("deep", [False, True])
def test_recipes_read_traces_and_parquet_as_annotations(deep: bool, synthetic: Path, tmp_path: Path) -> None:
    lines = planned(synthetic)[:4] + boxed(synthetic)[4:6]
    verified = write(tmp_path / "verified" / "verified.jsonl", lines)
    given = verified.parent.parent if deep else verified
    invoke("export", given, tmp_path / "out", "--to", "verl", "--root", synthetic)
    for file in (verified, tmp_path / "out/train.parquet"):
        source = DataSource(dataset="revos", root=str(synthetic), split="valid", annotations=str(file))
        found = list(_traces(source, Counter()))
        assert [(s.clip.name, s.expression.id) for s, _ in found] == [(d["clip"], d["expression_id"]) for d in lines]
        assert all(s.masklets is not None for s, _ in found)
        assert [r.replies for _, r in found] == [
            [c["value"] for c in d["record"]["conversations"] if c["from"] == "gpt"] for d in lines
        ]


def test_recipes_choose_kinds_of_records_as_released(synthetic: Path, tmp_path: Path) -> None:
    verified = write(tmp_path / "verified.jsonl", planned(synthetic))
    invoke("export", verified, tmp_path, "--to", "vts_cot", "--root", synthetic)
    file = tmp_path / "vts_cot_train.json"
    wanted = [d["exp"] for d in read(verified) if d["kind"] in ("attribute", "no_target")]
    source = DataSource(
        dataset="revos", root=str(synthetic), split="valid", annotations=str(file), kinds=["attribute", "no_target"]
    )
    assert [record.exp for _, record in _traces(source, Counter())] == wanted and 0 < len(wanted) < len(read(verified))


def test_one_command_asks_again_until_all_is_sound_or_had_its_attempts(tiny: Path, tmp_path: Path) -> None:
    def stubborn(body: dict[str, Any]) -> str:
        """Leaks at first; where something is left of something it leaks for ever."""
        fields, text = json.loads(sensible(body)), json.dumps(body)
        if "turned down" not in text or "left" in text:
            fields["temporal"] += " It sits in the red box."
        return json.dumps(fields)

    with running(FaultServer(answer=stubborn)) as server:
        cot = ["cot", "vts", "revos", tiny, "--model", "m", "--base-url", server.url, "--out", tmp_path / "vts"]
        invoke(*cot, "--limit", 8)
        verify = [tmp_path / "vts", tmp_path / "v", "--root", tiny, "--json"]
        assert json.loads(invoke("verify", *verify).stdout)["to_retry"] == 8
        told = invoke(*cot, "--again", tmp_path / "v", "--attempts", 3).stdout
        asked = sum(server.bodies.values())
        assert "nothing there is to be made again" in invoke(*cot, "--again", tmp_path / "v", "--attempts", 3).stdout
        assert sum(server.bodies.values()) == asked
        elsewhere = invoke(*cot[:-1], tmp_path / "other", "--again", tmp_path / "v", code=2).stderr
        assert "was verified from the traces in" in " ".join(elsewhere.split()) and not (tmp_path / "other").exists()
        manifest = json.loads((tmp_path / "v/verify.json").read_text())
        (tmp_path / "v/verify.json").write_text(json.dumps({**manifest, "command": None}))
        assert "verify it once more" in " ".join(invoke(*cot, "--again", tmp_path / "v", code=2).stderr.split())
    attempts = [d["attempt"] for d in read(tmp_path / "vts/traces.jsonl")]
    verified = read(tmp_path / "v/verified.jsonl")
    assert told.count("made now") == 2 and set(attempts) == {1, 2, 3}
    assert verified and {d["attempt"] for d in verified} == {2}
    assert attempts.count(1) == attempts.count(2) == 8 and attempts.count(3) == 8 - len(verified)
    assert json.loads(invoke("verify", *verify).stdout)["verified"] == len(verified)  # Nothing is left to verify.


def test_sample_says_what_a_cap_makes_impossible(tiny: Path, tmp_path: Path) -> None:
    ids = ["--ids", tmp_path / "ids.jsonl", "--no-annotations"]
    told = invoke("sample", "revos", tiny, "--size", 20, "--per-clip", 1, *ids, code=2).stderr
    assert "at most 1 a clip" in told and "--per-clip" in told and not (tmp_path / "ids.jsonl").exists()
    assert "cannot draw 9999" in invoke("sample", "revos", tiny, "--size", 9999, *ids, code=2).stderr
    assert "no stratum 'hue'" in invoke("sample", "revos", tiny, "--size", 2, "--strata", "hue", *ids, code=2).stderr
    assert "add --ids" in invoke("sample", "revos", tiny, "--size", 2, "--no-annotations", code=2).stderr


def test_exit_codes_of_verify(synthetic: Path, tmp_path: Path) -> None:
    lines = planned(synthetic)[:6]
    bad = [{**line, "exp": "another"} if n < 2 else line for n, line in enumerate(lines)]
    file, root = write(tmp_path / "t.jsonl", bad), ["--root", synthetic]
    told = invoke("verify", file, tmp_path / "a", *root)  # rejections are this step's work
    assert "agreement" in told.stdout and "66.7" in told.stdout
    low = invoke("verify", file, tmp_path / "a", *root, "--min-share", 0.9, code=1)
    assert "66.7 % of 6 traces survive, less than 90.0 %" in low.stderr
    lost = write(tmp_path / "lost.jsonl", [*lines[:3], {**lines[3], "clip": "gone"}])
    assert "'gone'" in invoke("verify", lost, tmp_path / "b", *root, code=1).stdout
    twice = write(tmp_path / "twice.jsonl", [*lines[:3], lines[2]])
    assert "ids come twice" in invoke("verify", twice, tmp_path / "t", *root, code=1).stdout
    for args, what in (
        ([tmp_path / "none.jsonl", tmp_path / "c", *root], "no such file"),
        ([file, tmp_path / "c", "--root", tmp_path / "nowhere"], "no folder"),
        ([file, tmp_path / "c", *root, "--skip", "magic"], "no check 'magic'"),
        ([file, tmp_path / "c", *root, "--vocabulary", "x"], "vocabulary"),
        ([file, tmp_path / "a", *root, "--min-words", 2], "was verified with min_words"),
        ([file, tmp_path / "c", *root, "--fps", 0], "fps"),
        ([file, tmp_path / "c", *root, *root], "is given already"),
    ):
        assert what in invoke("verify", *args, code=2).stderr


@pytest.mark.parametrize("command", ["sample", "verify", "export", "view"])
def test_help_teaches_by_example(command: str) -> None:
    text = invoke(command, "--help").output
    assert text.count(f"videoseg data {command}") >= 2 and "Examples:" in text


def test_wrong_export_and_view_calls_are_named(synthetic: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", planned(synthetic)[:2])
    root = ["--root", synthetic]
    assert "add --unverified" in invoke("export", file, tmp_path / "o", "--to", "verl", *root, code=2).stderr
    file = file.rename(tmp_path / "verified.jsonl")
    assert "add --root PATH" in invoke("export", file, tmp_path / "o", "--to", "verl", code=2).stderr
    assert "no export format 'csv'" in invoke("export", file, tmp_path / "o", "--to", "csv", *root, code=2).stderr
    assert "no such file" in invoke("export", tmp_path / "x.json", tmp_path / "o", "--to", "traces", code=2).stderr
    assert "expected one of verified" in invoke("view", file, tmp_path / "p", *root, "--verdict", "x", code=2).stderr
    lost = write(tmp_path / "l.jsonl", [*read(file), {**read(file)[0], "id": "b", "clip": "gone"}])
    assert "'gone'" in invoke("export", lost, tmp_path / "o", "--to", "verl", *root, "--unverified", code=1).stderr


def test_a_torn_last_line_is_told_by_the_exit_code(synthetic: Path, tmp_path: Path) -> None:
    file, root = write(tmp_path / "t.jsonl", planned(synthetic)[:2]), ["--root", synthetic]
    with file.open("a") as more:
        more.write('{"id": "half')
    assert "torn" in invoke("verify", file, tmp_path / "v", *root, code=1).stdout
    assert "torn" in invoke("export", file, tmp_path / "e", "--to", "verl", *root, "--unverified", code=1).stderr
    assert "torn" in invoke("view", file, tmp_path / "page.html", *root, code=1).stderr
