"""``videoseg data segmentation``: conversations for the first stage, from any data set with masks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from data_construction.layouts import write_layout
from data_construction.readers import VTSCoTRecord
from verl_ext.cli.main import app
from verl_ext.recipe import Recipe


@pytest.fixture
def run() -> Any:
    return lambda *args: CliRunner().invoke(app, ["data", "segmentation", *(str(a) for a in args)])


def records(path: Path) -> list[VTSCoTRecord]:
    return [VTSCoTRecord.from_dict(item) for item in json.loads(path.read_text())]


def test_images_are_clips_of_one_frame_and_nothing_is_invented(run: Any, tmp_path: Path) -> None:
    write_layout("refcoco", tmp_path / "data")
    out = tmp_path / "new" / "sft.json"
    result = run("refcoco", tmp_path / "data", "--out", out)
    assert result.exit_code == 0 and f"{len(records(out))} conversations" in result.output
    assert records(out) and {r.sample_frame_indice for r in records(out)} == {(0,)}
    assert {r.replies[0] for r in records(out)} == {"<answer><RefSeg> [SEG] </RefSeg></answer>"}
    again = run("refcoco", tmp_path / "data", "--out", out)
    assert again.exit_code == 2 and "add --overwrite" in again.stderr


def test_kinds_frames_and_known_names(run: Any, tiny_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "sft.json"
    assert run("revos", tiny_data, "--out", out, "--kind", "attribute", "--frames", 3).exit_code == 0
    assert {r.kind for r in records(out)} == {"attribute"}
    assert {r.sample_frame_indice for r in records(out)} == {(0, 5, 11)}  # the published choice truncates
    assert all("<think>Step 1: " in r.replies[0] and "target" not in r.replies[0] for r in records(out))
    refused = run("revos", tiny_data, "--out", tmp_path / "none.json", "--kind", "nonsense")
    assert refused.exit_code == 2 and "no usable expression" in refused.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["sft.json"]


def test_what_cannot_be_read_is_set_aside_by_name_and_the_exit_code_tells(run: Any, tmp_path: Path) -> None:
    write_layout("mevis", tmp_path / "data")
    clips = sorted((tmp_path / "data" / "train" / "JPEGImages").iterdir())
    sorted(clips[0].iterdir())[0].unlink()
    result = run("mevis", tmp_path / "data", "--out", tmp_path / "sft.json")
    assert result.exit_code == 1 and clips[0].name in result.stderr
    assert clips[0].name not in {r.video_name for r in records(tmp_path / "sft.json")}


def test_a_split_without_masks_is_refused(run: Any, tmp_path: Path) -> None:
    write_layout("mevis", tmp_path / "data")
    result = run("mevis", tmp_path / "data", "--split", "valid", "--out", tmp_path / "sft.json")
    assert result.exit_code == 2 and "has no masks; nothing to segment" in result.stderr


def test_the_first_stage_replays_them(
    run: Any, tiny_recipe: Callable[..., Recipe], activate: Callable[[Recipe], Recipe], tiny_data: Path, tmp_path: Path
) -> None:
    from transformers import AutoProcessor

    from verl_ext.supervised.dataset import SFTDataset

    assert run("revos", tiny_data, "--out", tmp_path / "sft.json").exit_code == 0
    source = {"dataset": "revos", "root": str(tiny_data), "annotations": str(tmp_path / "sft.json")}
    recipe = activate(tiny_recipe("sft", f"data=[{json.dumps(source)}]", "rollout.max_turns=1"))
    processor = AutoProcessor.from_pretrained(recipe.policy.path)
    data = SFTDataset(tokenizer=processor.tokenizer, processor=processor)
    item = data[0]
    (turn,) = item["episode"]["turns"]
    assert len(turn["seg_positions"]) == 1 and item["episode"]["spatial_frames"] == (6,)
