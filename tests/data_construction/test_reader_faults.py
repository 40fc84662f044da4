"""What a reader must not pass over in silence: numbers that shift, names and ids of the wrong kind, odd files."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_construction.layouts import draw_clips, write_layout
from data_construction.readers import frame_files, open_dataset
from data_construction.readers.annotations import ClipEntry, annotation_ids
from data_construction.readers.frame_files import absent
from data_construction.readers.records import read_vts_cot
from rollout.errors import DataError
from rollout.frames import frame_times, one_a_second
from rollout.types import Sample
from tests.videos import write_video

Edit = Callable[[Path, Callable[[Any], object]], None]
META = "meta_expressions/train/meta_expressions.json"


def numbered(root: Path, clips: int = 2) -> Path:
    """Refer-YouTube-VOS with Sa2VA's pickle; returns the annotation file."""
    write_layout("ref_ytvos", root, clips=clips)
    drawn = {c.name: c for c in draw_clips("ref_ytvos", "train", clips=clips)}
    meta = json.loads((root / META).read_text())["videos"]
    masks: dict[str, Any] = {}
    for name in sorted(meta):
        for eid in sorted(meta[name]["expressions"]):
            masks[str(len(masks))] = drawn[name].rles(int(meta[name]["expressions"][eid]["obj_id"]) - 1)
    (root / "mask_dict.pkl").write_bytes(pickle.dumps(masks))
    (root / "train/Annotations").rename(root / "elsewhere")
    return root / META


def by_id(samples: list[Sample]) -> dict[str, Any]:
    return {s.id: s.masklets for s in samples}


def test_an_unreadable_expression_keeps_its_number_so_that_masks_stay_where_they_belong(
    tmp_path: Path, edit: Edit
) -> None:
    meta = numbered(tmp_path / "y")
    before = by_id(list(open_dataset("ref_ytvos", tmp_path / "y", "train").samples()))
    first = next(iter(before))
    clip, _, eid = first.rpartition("/")
    edit(meta, lambda m: m["videos"][clip]["expressions"][eid].update(exp=" "))
    errors: list[DataError] = []
    after = by_id(list(open_dataset("ref_ytvos", tmp_path / "y", "train").samples(errors.append)))
    assert [*before][1:] == [*after] and all(after[i] == before[i] for i in after)
    assert len(errors) == 1 and f"expression {eid}" in str(errors[0])


@pytest.mark.parametrize("wrong", [[], {"expressions": "three of them", "frames": ["0"]}])
def test_masks_that_cannot_be_numbered_any_more_are_refused(wrong: Any, tmp_path: Path, edit: Edit) -> None:
    meta = numbered(tmp_path / "y")
    clip = next(iter(json.loads(meta.read_text())["videos"]))
    edit(meta, lambda m: m["videos"].update({clip: wrong}))
    with pytest.raises(DataError, match=rf"{clip}.*numbered by expression"):
        open_dataset("ref_ytvos", tmp_path / "y", "train")


def test_annotation_ids_of_every_kind() -> None:
    assert annotation_ids(None) == annotation_ids([]) == ()
    assert annotation_ids("17") == annotation_ids(17) == annotation_ids([17]) == ("17",)
    for wrong in (True, 3.0, {"a": 1}, [[1]], [None]):
        with pytest.raises(TypeError, match="annotation id"):
            annotation_ids(wrong)


def test_an_annotation_id_as_text_is_one_id_not_its_digits(broken: Path, edit: Edit) -> None:
    traces = broken / "vts_cot_train.json"
    edit(traces, lambda m: m[0].update(anno_id="17"))
    assert read_vts_cot(traces)[0].anno_id == ("17",)
    for key, value in (("anno_id", {"17": 1}), ("frames", "00000"), ("sample_frame_indice", "12")):
        edit(traces, lambda m, k=key, v=value: m[1].update({k: v}))
        with pytest.raises(DataError, match="record 1: not a VTS-CoT record"):
            read_vts_cot(traces)
    meta = broken / "meta_expressions_train_.json"
    edit(meta, lambda m: m["videos"]["train_00000"]["expressions"]["0"].update(anno_id=[{"id": 3}]))
    (problem,) = open_dataset("revos", broken, "train").index["train_00000"].problems
    assert problem.code == "malformed_expression" and "{'id': 3}" in problem.what


def test_a_frame_of_a_video_without_a_number_is_a_fault_and_not_frame_0(tmp_path: Path, edit: Edit) -> None:
    root = tmp_path / "sav"
    write_layout("ref_sav", root, clips=2)
    clip = "sav_001000"
    edit(root / "meta_expressions_valid.json", lambda m: m["videos"][clip]["frames"].__setitem__(2, "frame_8"))
    data = open_dataset("ref_sav", root, "valid")
    assert [(p.code, p.clip, p.frame) for p in data.validate()] == [("frame_name", clip, "frame_8")]
    with pytest.raises(DataError, match=rf"{clip}.*frame frame_8: is a frame of a video"):
        data.clip(clip)
    errors: list[DataError] = []
    assert {s.clip.name for s in data.samples(errors.append)} == {"sav_001001"} and len(errors) == 1
    (root / f"videos/sav_001/{clip}.mp4").unlink()
    assert {p.code for p in open_dataset("ref_sav", root, "valid").validate()} == {"missing_frame"}


def test_absent_frames_are_found_by_the_folders_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / "a" / f"{t:03d}.jpg" for t in range(40)]
    (tmp_path / "a").mkdir()
    for path in paths[:-1]:
        path.touch()
    (tmp_path / "a/dangling.jpg").symlink_to(tmp_path / "nowhere")
    elsewhere = tmp_path / "b" / "0.jpg"
    dangling = tmp_path / "a/dangling.jpg"
    asked: list[Path] = []
    plain = Path.is_file
    monkeypatch.setattr(Path, "is_file", lambda self: asked.append(self) or plain(self))
    assert absent([*paths, dangling, elsewhere]) == {paths[-1], dangling, elsewhere}
    assert len(asked) == 3  # Not one a frame.
    monkeypatch.setattr(frame_files, "LISTED", 0)  # A folder of far more files than this clip's is not listed whole.
    assert absent(paths) == {paths[-1]}


def test_texts_of_a_folder_that_are_no_list_are_named(tmp_path: Path) -> None:
    write_layout("generic", tmp_path / "g", clips=2)
    path = tmp_path / "g/expressions.json"
    texts = json.loads(path.read_text())
    path.write_text(json.dumps({**texts, "all_00000": "the dog"}))
    data = open_dataset("generic", tmp_path / "g", "all")
    (problem,) = data.validate()
    assert (problem.code, problem.clip) == ("malformed_expression", "all_00000") and "'the dog'" in problem.what
    assert data.ask("all_00000", "the dog").clip.num_frames  # The clip itself is sound.


def test_object_0_of_palette_masks_is_the_background(tmp_path: Path) -> None:
    write_layout("generic", tmp_path / "g", clips=1)
    path = tmp_path / "g/expressions.json"
    path.write_text(json.dumps({"all_00000": {"0": {"exp": "it", "anno_id": [0]}}}))
    with pytest.raises(DataError, match=r"annotation '0'.*0 is the background"):
        open_dataset("generic", tmp_path / "g", "all").get("all_00000", "0")


def test_an_id_with_half_a_window_is_a_problem_and_no_crash(tmp_path: Path) -> None:
    write_layout("generic", tmp_path / "g", clips=1)
    (tmp_path / "g/expressions.json").write_text(json.dumps({"all_00000": {"0": {"exp": "it", "anno_id": ["1@x"]}}}))
    (problem,) = open_dataset("generic", tmp_path / "g", "all").validate()
    assert "wants object@first-last" in problem.what


def test_a_list_where_sav_has_a_mapping_is_a_problem_of_the_clip(tmp_path: Path) -> None:
    write_layout("ref_sav", tmp_path / "s", clips=2)
    (tmp_path / "s/sam_v_full/sav_train/sav_000/sav_000000_manual.json").write_text("[]")
    data = open_dataset("ref_sav", tmp_path / "s", "train")
    assert [(p.code, p.clip) for p in data.validate()] == [("no_masks", "sav_000000")]


def test_an_event_goes_by_the_videos_time_stamps(tmp_path: Path, edit: Edit) -> None:
    """A screen recording: ten frames in the first second, and one every second after it."""
    write_layout("timelens", tmp_path / "t", clips=1)
    write_video(tmp_path / "t/videos/v_00000.mp4", [*range(0, 1000, 100), *range(1000, 6000, 1000)])
    file = tmp_path / "t/timelens-100k.jsonl"
    item = json.loads(file.read_text().splitlines()[0])
    item["events"] = [{"query": "it\u2028turns", "span": [[2.0, 4.0]]}]
    file.write_text(json.dumps(item, ensure_ascii=False) + "\r\n")
    data = open_dataset("timelens", tmp_path / "t", "train")
    entry = data.index["v_00000.mp4"]
    assert not entry.problems and entry.existence["0_0"] == (0,) * 11 + (1, 1, 1, 0)
    clip = data.clip("v_00000.mp4")
    assert clip.times == (*(t / 10 for t in range(10)), 1.0, 2.0, 3.0, 4.0, 5.0)
    assert one_a_second(frame_times(clip)) == [0, 10, 11, 12, 13, 14]


def test_an_id_that_stands_twice_in_a_mask_file_is_found(broken: Path) -> None:
    for name, key in (("mask_dict.json", "3"), ("mask_dict_foreground.json", "train_00001")):
        path = broken / name
        text = path.read_text()
        path.write_text(text[:-1] + f',"{key}":' + json.dumps(json.loads(text)[key]) + "}")
        (problem,) = open_dataset("revos", broken, "train").validate()
        assert problem.code == "duplicate_id" and f"'{key}' stands twice" in problem.what and problem.file == str(path)
        path.write_text(text)


def test_foreground_masks_are_looked_at(broken: Path, edit: Edit) -> None:
    path = broken / "mask_dict_foreground.json"
    edit(path, lambda m: m["train_00001"]["masks_rle"].pop())
    edit(path, lambda m: m.pop("train_00002"))
    problems = open_dataset("revos", broken, "train").validate()
    assert [(p.code, p.clip) for p in problems] == [("mask_count", "train_00001"), ("no_foreground", "train_00002")]
    edit(path, lambda m: [m.pop(c) for c in list(m) if c.startswith("train")])  # A file for the other splits only.
    assert open_dataset("revos", broken, "train").validate() == []
    path.write_text("[]")
    assert "must map clips" in str(open_dataset("revos", broken, "train").validate()[0])


def test_progress_says_what_is_done_also_after_a_missing_clip(broken: Path) -> None:
    shutil.rmtree(broken / "JPEGImages/train_00000")
    said: set[str] = set()
    open_dataset("revos", broken, "train").validate(progress=lambda done, total, what: said.add(what))
    assert said == {"checking revos/train"}


def test_lost_expressions_have_the_ids_that_they_would_have() -> None:
    from data_construction.problems import Problem

    problems = (
        Problem("malformed_expression", "f", "x", "c", item="expression 3"),
        Problem("duplicate_id", "f", "x", "c", item="expression 0"),
        Problem("malformed_record", "f", "x", "c", item="record 7"),
        Problem("malformed_clip", "f", "x", "c"),
    )
    entry = ClipEntry("c", ("0",), {"0": None}, problems=problems)  # type: ignore[dict-item]
    assert [*entry.lost] == ["3", "expression 0 (1)", "7"] and entry.refused is problems[3]


def test_empty_masks_stay_apart_from_the_background(tmp_path: Path) -> None:
    """A whole-file object may be called 0, as its file's name and not as a value."""
    root = tmp_path / "own"
    for t in range(2):
        for folder, value in ((root / "F" / "a", 9), (root / "M" / "a" / "0", t)):
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((6, 8), value, np.uint8)).save(folder / f"{t}.png")
    meta = {"videos": {"a": {"frames": ["0", "1"], "expressions": {"0": {"exp": "it", "anno_id": "0"}}}}}
    (root / "meta.json").write_text(json.dumps(meta))
    stanza = tmp_path / "own.yaml"
    stanza.write_text(
        "annotation_format: meta_expressions\nmask_format: png_folder\nmasks: M\nannotations: meta.json\n"
        'mask_files: "{clip}/{anno}/{frame}.png"\nframes: "F/{clip}/{frame}.png"\nsplits: {all: {}}\n'
    )
    masklets = open_dataset(str(stanza), root, "all", strict=True).get("a", "0").masklets
    assert masklets is not None and masklets.existence().tolist() == [0, 1]
