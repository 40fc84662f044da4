"""The check counts what cannot be used, and reads the training files to their end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_construction import check_manifest
from data_construction.check import check_dataset
from data_construction.check_manifest import verify_manifest, write_manifest
from data_construction.layouts import write_layout
from data_construction.readers import open_dataset, read_rl_annotations, read_vts_cot
from rollout.errors import DataError

Edit = Callable[[Path, Callable[[Any], object]], None]
META = "meta_expressions_train_.json"


@pytest.mark.parametrize("how", ["cut", "small", "gone"])
def test_a_bad_frame_sets_its_clips_expressions_aside(how: str, broken: Path) -> None:
    frame = broken / "JPEGImages/train_00001/00004.jpg"
    content = frame.read_bytes()
    frame.unlink()
    if how == "cut":
        frame.write_bytes(content[: len(content) // 2])
    if how == "small":
        Image.new("RGB", (20, 20)).save(frame)
    sizes = {clip: len(e.expressions) for clip, e in open_dataset("revos", broken, "train").index.items()}
    counts = check_dataset("revos", broken, ["train"]).splits["train"]
    assert counts.expressions == sum(sizes.values()) and counts.set_aside == sizes["train_00001"]
    assert counts.scored == counts.expressions - counts.set_aside == sum(counts.targets.values())


def test_items_that_are_lost_are_counted(tmp_path: Path, edit: Edit) -> None:
    root = tmp_path / "rl"
    write_layout("rl_annotations", root, clips=2)
    whole = check_dataset("rl_annotations", root, ["revos"]).splits["revos"].expressions
    file = root / "VideoSEG-O3-RL/rl_revos_data.json"
    edit(file, lambda m: m[1][0].update(frames=m[1][0]["frames"][:-1], mask_existence=m[1][0]["mask_existence"][:-1]))
    edit(file, lambda m: m[2][0]["mask_existence"].__setitem__(0, -1))
    report = check_dataset("rl_annotations", root, ["revos"])
    assert {p.code for p in report.problems} == {"frames_differ", "malformed_record"}
    assert (report.splits["revos"].expressions, report.splits["revos"].set_aside) == (whole, 2)
    write_layout("reasonvos", tmp_path / "r", clips=2)
    meta = tmp_path / "r/meta_expressions.json"
    edit(meta, lambda m: m["videos"]["test_00000"]["expressions"].append(m["videos"]["test_00000"]["expressions"][0]))
    counts = check_dataset("reasonvos", tmp_path / "r").splits["test"]
    assert counts.set_aside == 1


def test_every_fault_of_the_training_files_is_found(broken: Path, edit: Edit) -> None:
    rl, cot = broken / "rl_annotations_train.json", broken / "vts_cot_train.json"
    total = check_dataset("revos", broken, ["train"]).splits["train"].traces
    edit(rl, lambda m: m[0][0]["mask_existence"].__setitem__(0, -1))
    edit(rl, lambda m: m[1][0]["mask_existence"].__setitem__(3, 1 - m[1][0]["mask_existence"][3]))
    edit(rl, lambda m: m[2][0]["frames"].__setitem__(5, "00099"))
    edit(rl, lambda m: m[3][0].update(video_name="gone"))
    edit(rl, lambda m: m[4][0].update(anno_id=[987654]))
    edit(cot, lambda m: m[0].pop("exp"))
    edit(cot, lambda m: m[2]["frames"].reverse())
    edit(cot, lambda m: m[3].update(video_name="gone"))
    report = check_dataset("revos", broken, ["train"])
    found = sorted((Path(p.file).name, p.item.removeprefix("record "), p.code) for p in report.problems)
    assert found == [
        ("mask_dict.json", "annotation 987654", "no_masks"),
        (rl.name, "0", "malformed_record"),
        (rl.name, "1", "existence"),
        (rl.name, "2", "frames_differ"),
        (rl.name, "3", "unknown_clip"),
        (cot.name, "0", "malformed_record"),
        (cot.name, "2", "frames_differ"),
        (cot.name, "3", "unknown_clip"),
    ]
    assert (report.splits["train"].rl_annotations, report.splits["train"].traces) == (total - 5, total - 3)
    data = open_dataset("revos", broken, "train")
    with pytest.raises(DataError, match=r"record 0: not an RL annotation .*wants 0 or 1 each"):
        next(read_rl_annotations(rl, data))
    with pytest.raises(DataError, match=r"record 0: not a VTS-CoT record \(KeyError: 'exp'\)"):
        read_vts_cot(cot)
    assert len(read_vts_cot(cot, lambda _: None)) == total - 1  # Frames are compared with a data set's only.


def test_a_missing_file_of_foreground_masks_is_said_once(broken: Path) -> None:
    (broken / "mask_dict_foreground.json").unlink()
    (problem,) = check_dataset("revos", broken).problems
    assert problem.code == "no_foreground" and "robustness" in problem.remedy
    open_dataset("revos", broken, "train", strict=True)  # Training does without.


def test_what_twins_have_in_common_is_said_and_sources_are_not_compared(broken: Path, tmp_path: Path) -> None:
    shutil.rmtree(broken / "JPEGImages/valid_00001")
    shutil.copytree(broken / "JPEGImages/train_00002", broken / "JPEGImages/valid_00001")
    (problem,) = check_dataset("revos", broken).problems
    assert problem.what == "has the same first and middle frame as clip train_00002 of split train"
    root = tmp_path / "rl"
    write_layout("rl_annotations", root, clips=1)
    places = root / "video_datas/revos/revos_00000", root / "video_datas/mevis/train/JPEGImages/mevis_01000"
    for name in ("00000.jpg", *(p.name for p in sorted(places[1].iterdir()))):
        shutil.copy(places[0] / "00000.jpg", places[1] / name)
    for path in places[0].iterdir():
        path.write_bytes((places[1] / "00000.jpg").read_bytes())
    assert check_dataset("rl_annotations", root).ok


def test_a_manifest_of_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, path = tmp_path / "data", tmp_path / "manifest"
    root.mkdir()
    for name in "abc":
        (root / name).write_text(name)
    write_manifest(root, path, "x")
    (root / "a").unlink()
    (root / "a").symlink_to(tmp_path / "nowhere")
    plain = check_manifest.sha256

    def stops(file: Path) -> str:
        if file.name == "b":
            raise OSError(5, "Input/output error", str(file))
        return plain(file)

    monkeypatch.setattr(check_manifest, "sha256", stops)
    found = [(p.code, Path(p.file).name) for p in verify_manifest(root, path)]
    assert found == [("unreadable_file", "a"), ("unreadable_file", "b")]
    path.write_text('{"manifest": 1}\n[3]\n')
    with pytest.raises(DataError, match=r"'\[3\]' is no line of a manifest"):
        list(verify_manifest(root, path))
    path.write_text('{"manifest": 1}\n{"name": "a"}\n')
    with pytest.raises(DataError, match="is no line of a manifest"):
        list(verify_manifest(root, path))

    def closed(folder: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(DataError, match="data: cannot be listed"):
        list(verify_manifest(root, path))
