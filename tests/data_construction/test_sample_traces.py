"""Traces of a sample go on through every later command; expressions that cannot be read are named, not passed over."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from data_construction.cot.lines import finished
from data_construction.generate import Item, SetAside, Source
from data_construction.readers import open_dataset, read_vts_cot
from data_construction.traces import Sources, Trace
from data_construction.vlm import Usage
from rollout.errors import DataError
from tests.data_construction.fault_server import FaultServer, running
from tests.data_construction.trace_files import planned, read
from verl_ext.cli.main import app

Edit = Callable[[Path, Callable[[Any], object]], None]
TRAIN = "meta_expressions_train_.json"


def invoke(*args: Any) -> str:
    result = CliRunner().invoke(app, ["data", *(str(a) for a in args)])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def sampled(broken: Path) -> Path:
    """A data set's folder with a sample's annotations and stanza in it."""
    invoke("sample", "revos", broken, "--size", 3)
    return broken


def test_from_a_sample_to_its_export(sampled: Path, tmp_path: Path) -> None:
    stanza, split = sampled / "meta_expressions_train_select.yaml", "train_select"
    with running(FaultServer()) as server:
        where = ["--split", split, "--model", "m", "--base-url", server.url, "--out", tmp_path / "vts"]
        invoke("cot", "vts", stanza, sampled, *where)
    ids = [line["id"] for line in read(tmp_path / "vts/traces.jsonl")]
    assert len(ids) == 3 and all(i.startswith(f"meta_expressions_train_select/{split}/") for i in ids)
    report = json.loads(invoke("verify", tmp_path / "vts", tmp_path / "v", "--root", sampled, "--json"))
    assert report["verified"] == 3
    kept = read(tmp_path / "v/verified.jsonl")
    assert len(kept) == 3
    assert "3 traces" in invoke("export", tmp_path / "v", tmp_path / "out", "--to", "vts_cot", "--root", sampled)
    assert len(read_vts_cot(tmp_path / "out/vts_cot_train.json")) == 3
    assert "3 of 3 traces" in invoke("view", tmp_path / "v", tmp_path / "page.html", "--root", sampled)
    invoke("export", tmp_path / "v", tmp_path / "verl", "--to", "verl", "--root", sampled)
    invoke("export", tmp_path / "verl/train.parquet", tmp_path / "back.jsonl", "--to", "traces")
    assert read(tmp_path / "back.jsonl") == kept


def line_of(root: Path, stanza: Path, split: str) -> dict[str, Any]:
    """A trace of the split's first expression, with another one's words."""
    data = open_dataset(str(stanza), root, split)
    item = Item(f"{data.name}/{split}/x/0", next(data.samples()))
    return finished(data, "videoseg_o3", item, planned(root, "valid")[0]["record"], Usage())


def test_a_trace_says_by_which_stanza_it_was_made(sampled: Path, tmp_path: Path) -> None:
    inside = sampled / "meta_expressions_train_select.yaml"
    line = line_of(sampled, inside, "train_select")
    assert line["stanza"] == "meta_expressions_train_select.yaml"  # Under the root, which may move.
    moved = Path(shutil.copytree(sampled, tmp_path / "moved"))
    trace = Trace.from_dict(line, "line")
    assert Sources.parse([str(moved)]).sample(trace).clip.frames[0].startswith(str(moved))
    outside = Path(shutil.move(inside, tmp_path / "elsewhere.yaml"))
    with pytest.raises(DataError, match=r"stanza .*which is not there; give it as --root meta_expressions_train_sel"):
        Sources.parse([str(sampled)]).dataset(trace)
    other = line_of(sampled, outside, "train_select")
    assert other["dataset"] == "elsewhere" and other["stanza"] == str(outside)
    assert Sources.parse([str(sampled)]).dataset(Trace.from_dict(other, "line")).name == "elsewhere"


def test_a_stanza_is_given_by_its_path(sampled: Path, tmp_path: Path) -> None:
    stanza = Path(shutil.copy(sampled / "meta_expressions_train_select.yaml", tmp_path / "mine.yaml"))
    line = {k: v for k, v in line_of(sampled, stanza, "train_select").items() if k != "stanza"}
    trace = Trace.from_dict(line, "line")
    with pytest.raises(DataError, match="no data set called 'mine'"):
        Sources.parse([str(sampled)]).dataset(trace)
    assert Sources.parse([f"{stanza}={sampled}"]).dataset(trace).split == "train_select"
    nameless = Trace.from_dict({**line, "dataset": "", "split": ""}, "line")
    assert Sources.parse([str(sampled)], str(stanza), "train_select").dataset(nameless).name == "mine"
    stanza.write_text("name: ours\n" + stanza.read_text())
    named = Trace.from_dict(line_of(sampled, stanza, "train_select"), "line")
    assert named.dataset == "ours" and Sources.parse([f"{stanza}={sampled}"]).dataset(named).name == "ours"
    with pytest.raises(DataError, match=r"no data set called.*gone\.yaml"):
        Sources.parse([f"gone.yaml={sampled}"])


def test_a_shipped_data_sets_line_names_no_stanza(tiny: Path) -> None:
    data = open_dataset("revos", tiny, "train")
    assert "stanza" not in finished(data, "videoseg_o3", Item("i", next(data.samples())), {}, Usage())


def test_expressions_that_cannot_be_read_are_set_aside_by_name(broken: Path, edit: Edit) -> None:
    def spoil(m: Any) -> None:
        m["videos"]["train_00000"]["expressions"]["1"].pop("exp")
        for body in m["videos"]["train_00002"]["expressions"].values():
            body.update(exp=" ")

    edit(broken / TRAIN, spoil)
    data = open_dataset("revos", broken, "train")
    count = len(json.loads((broken / TRAIN).read_text())["videos"]["train_00002"]["expressions"])
    source = Source(data)
    items = list(source.items(lambda _: False))
    lost = [i for i in items if isinstance(i, SetAside)]
    assert [i.id for i in lost] == [
        "revos/train/train_00000/1",
        *(f"revos/train/train_00002/{n}" for n in range(count)),
    ]
    assert all(i.code == "malformed_expression" and i.clip in i.reason for i in lost)
    assert len(items) == len(source) == len(data) + 1 + count
    assert [i.id for i in items if i is not None] == list(source.ids())  # So that they stay in failed.jsonl.
    some = Source(data, select=frozenset({("train_00000", "1"), ("train_00000", "2")}), per_clip=1)
    assert [i.id for i in some.items(lambda _: False) if i is not None] == [
        "revos/train/train_00000/2",
        "revos/train/train_00000/1",
    ]
