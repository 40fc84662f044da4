"""What the check counts in every layout, its pictures, its manifest, and the command."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from data_construction import check_manifest
from data_construction.check import check_dataset
from data_construction.check_draw import COLORS, HEADER, TILE_HEIGHT, draw_samples, sheet
from data_construction.check_manifest import verify_manifest, write_manifest
from data_construction.layouts import SPLITS, draw_clips, write_layout
from data_construction.readers import open_dataset
from data_construction.readers.pickles import read_pickle
from rollout.errors import DataError
from verl_ext.cli.data import app

NO_MASKS = {("mevis", "valid"), ("mevis", "test"), ("mevis_v2", "valid"), ("ref_ytvos", "valid"), ("ref_ytvos", "test")}
NO_MASKS |= {("chatunivi", "train"), ("timelens", "train")}


@pytest.mark.parametrize("dataset", SPLITS)
def test_every_layout_is_sound_and_scores_one_against_itself(dataset: str, layouts: Path) -> None:
    report = check_dataset(dataset, layouts / dataset, frames="exist")
    assert report.ok, report.table(300)
    assert set(report.splits) == set(SPLITS[dataset])
    for split, counts in report.splits.items():
        drawn = draw_clips(dataset, split)
        images = dataset.startswith("refcoco") or dataset in ("reasonseg", "gcg")
        assert counts.clips == len(drawn)
        assert counts.frames == sum(1 if images else c.num_frames for c in drawn)
        assert counts.expressions > 0 and counts.set_aside == 0
        without = (dataset, split) in NO_MASKS
        assert counts.self_jf == (None if without else 1.0)
        assert counts.scored == (0 if without else counts.expressions)
    assert len(report.table().splitlines()) < 40


def test_what_is_wrong_is_counted_and_the_rest_used(tmp_path: Path, edit: Callable[[Path, Any], None]) -> None:
    root = tmp_path / "mevis"
    write_layout("mevis", root, clips=4)
    meta = root / "train/meta_expressions.json"
    sizes = [len(v["expressions"]) for v in json.loads(meta.read_text())["videos"].values()]
    (root / "train/JPEGImages/train_00000/00004.jpg").unlink()
    first = str(json.loads(meta.read_text())["videos"]["train_00001"]["expressions"]["0"]["anno_id"][0])
    edit(root / "train/mask_dict.json", lambda m: m[first].pop())
    edit(meta, lambda m: m["videos"]["train_00002"].update(expressions={}))
    errors: list[DataError] = []
    used = list(open_dataset("mevis", root, "train").samples(errors.append))
    hit = sum(first in s.expression.anno_ids for s in used)
    assert hit == 0 and {s.clip.name for s in used} == {"train_00001", "train_00003"}
    codes = sorted(str(e).split("]")[0][1:] for e in errors)
    assert set(codes) == {"missing_frame", "mask_count"}
    report = check_dataset("mevis", root)
    assert report.splits["train"].set_aside == sizes[0] + codes.count("mask_count")
    assert report.splits["valid_u"].set_aside == 0 and report.splits["train"].self_jf == 1.0
    text = report.table()
    for named in ("00004.jpg: clip train_00000, frame 00004", f"clip train_00001, annotation {first}", "train_00002"):
        assert named in text


def test_a_clip_or_id_that_stands_twice_is_found(tmp_path: Path) -> None:
    write_layout("mevis", tmp_path / "m", clips=2)
    path = tmp_path / "m/train/meta_expressions.json"
    text = path.read_text()
    path.write_text(text.replace('"train_00001":', '"train_00000":').replace('{"1":', '{"0":'))
    problems = open_dataset("mevis", tmp_path / "m", "train").validate()
    assert [(p.code, p.clip) for p in problems] == [("duplicate_id", "train_00000")]
    path.write_text(text.replace('"1":{"exp"', '"0":{"exp"', 1))
    (problem,) = open_dataset("mevis", tmp_path / "m", "train").validate()
    assert problem.code == "duplicate_id" and "'0' stands twice" in problem.what and str(path) in str(problem)


def test_a_missing_clip_is_one_problem_not_one_a_frame(tmp_path: Path) -> None:
    write_layout("mevis", tmp_path / "m", clips=2)
    shutil.rmtree(tmp_path / "m/train/JPEGImages/train_00001")
    problems = check_dataset("mevis", tmp_path / "m", ["train"]).problems
    assert problems[0].code == "missing_frame" and "none of the clip's" in problems[0].what
    assert len(problems) <= 2 and {p.clip for p in problems} == {"train_00001"}


def test_pictures_show_the_outline_where_the_mask_is(layouts: Path, tmp_path: Path) -> None:
    data = open_dataset("mevis", layouts / "mevis", "train")
    paths = draw_samples(data, 2, tmp_path / "pictures")
    assert len(paths) == 2 and not list((tmp_path / "pictures").glob(".*"))
    for path in paths:
        with Image.open(path) as image:
            assert image.height == HEADER + TILE_HEIGHT and image.width >= 5 * TILE_HEIGHT
    sample = data.get("train_00000", "0")
    assert sample.masklets is not None
    seen = np.flatnonzero(sample.masklets.existence())
    tile = sheet(sample)[HEADER:, : TILE_HEIGHT * 64 // 48]
    rows, columns = np.nonzero(np.abs(tile.astype(int) - COLORS[0]).sum(2) < 30)
    mask_rows, mask_columns = np.nonzero(sample.masklets.union(int(seen[0])))
    scale = TILE_HEIGHT / 48
    assert len(rows) > 20
    assert abs(rows.min() - mask_rows.min() * scale) < 6 and abs(rows.max() - (mask_rows.max() + 1) * scale) < 6
    assert abs(columns.max() - (mask_columns.max() + 1) * scale) < 6
    assert draw_samples(open_dataset("timelens", layouts / "timelens", "train"), 1, tmp_path / "words")


def test_manifest_finds_what_is_lost_changed_and_new(tmp_path: Path) -> None:
    root, path = tmp_path / "data", tmp_path / "data.manifest"
    write_layout("reasonseg", root, clips=2)
    files = sorted(p for p in root.rglob("*") if p.is_file())
    assert write_manifest(root, path, "reasonseg") == len(files) == 12
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0] == {"manifest": 1, "dataset": "reasonseg"} and lines[-1]["files"] == 12
    assert lines[-1]["bytes"] == sum(p.stat().st_size for p in files)
    assert list(verify_manifest(root, path)) == []
    data = bytearray(files[3].read_bytes())
    data[20] ^= 1
    files[3].write_bytes(bytes(data))
    files[5].unlink()
    files[8].write_bytes(b"short")
    (root / "train/zz.jpg").write_bytes(b"new")
    (root / "0.txt").write_bytes(b"new")
    found = {(p.code, Path(p.file).relative_to(root).as_posix()) for p in verify_manifest(root, path)}
    names = [p.relative_to(root).as_posix() for p in files]
    wanted = {("changed_file", names[3]), ("lost_file", names[5]), ("changed_file", names[8])}
    assert found == wanted | {("new_file", "train/zz.jpg"), ("new_file", "0.txt")}


def test_a_manifest_that_was_cut_or_edited_is_not_believed(tmp_path: Path) -> None:
    root, path = tmp_path / "data", tmp_path / "data.manifest"
    write_layout("reasonseg", root, clips=1)
    write_manifest(root, path, "reasonseg")
    text = path.read_text()
    for wrong in (
        text[: len(text) // 2],
        "\n".join(text.splitlines()[:-1]),
        text.replace('"bytes": ', '"bytes": 1', 1),
    ):
        path.write_text(wrong)
        with pytest.raises(DataError, match=r"data\.manifest"):
            list(verify_manifest(root, path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no files"):
        write_manifest(tmp_path / "empty", path, "x")
    assert path.read_text() == wrong and not list(tmp_path.glob(".*"))


def test_a_manifest_inside_the_folder_does_not_list_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data"
    write_layout("reasonseg", root, clips=1)
    write_manifest(root, root / "manifest", "reasonseg")
    assert list(verify_manifest(root, root / "manifest")) == []
    before = (root / "manifest").read_text()

    def stops(file: Path) -> str:
        raise OSError(5, "Input/output error", str(file))

    monkeypatch.setattr(check_manifest, "sha256", stops)
    with pytest.raises(DataError, match="Input/output error"):
        write_manifest(root, root / "manifest", "reasonseg")
    assert (root / "manifest").read_text() == before and not list(root.glob(".*"))


def test_a_pickle_that_runs_something_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    path = tmp_path / "x.p"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps({"a": [1, Evil()]}, protocol=protocol))
        with pytest.raises(DataError, match=r"x\.p: refused: the pickle asks for (posix|nt)\.system"):
            read_pickle(path)
        plain = {"a": [1, 2.5, None, True, "ü", b"\xff\x00"], 3: ({4}, frozenset({5}))}
        path.write_bytes(pickle.dumps(plain, protocol=protocol))
        os.utime(path, ns=(protocol, protocol))
        assert read_pickle(path) == plain
    assert not (tmp_path / "ran").exists()
    for wrong in (
        b"cos\nsystem\n(S'true'\ntR.",
        b"c__builtin__\neval\n(S'1'\ntR.",
        b"\x80\x04.",
        b"",
        b"\x80\x04X\xff\xff",
    ):
        path.write_bytes(wrong)
        with pytest.raises(DataError, match=r"x\.p"):
            read_pickle(path)


def test_commands(tmp_path: Path) -> None:
    run = CliRunner().invoke
    root, manifest = str(tmp_path / "sav"), str(tmp_path / "sav.manifest")
    made = run(app, ["synthetic", root, "--layout", "ref_sav", "--clips", "2"])
    assert made.exit_code == 0 and "2 train, 2 valid" in " ".join(made.output.split())
    sound = run(app, ["check", "ref_sav", root, "--draw", "1", "--out", str(tmp_path / "pics"), "--manifest", manifest])
    assert sound.exit_code == 0, sound.output
    assert "no problems found" in sound.output and "2 samples drawn" in sound.output
    assert len(list((tmp_path / "pics").glob("*.png"))) == 2
    video = tmp_path / "sav/videos/sav_001/sav_001001.mp4"
    video.write_bytes(video.read_bytes()[:900])
    wrong = run(app, ["check", "ref_sav", root, "--split", "valid", "--verify-manifest", manifest])
    assert wrong.exit_code == 1
    assert "changed_file" in wrong.output and "unreadable_frame" in wrong.output and "clip sav_001001" in wrong.output
    as_json = run(app, ["check", "ref_sav", root, "--split", "valid", "--json", "--manifest", str(tmp_path / "no")])
    assert as_json.exit_code == 1 and not (tmp_path / "no").exists()
    assert run(app, ["check", "ref_sav", root, "--frames", "decoed"]).exit_code == 2
