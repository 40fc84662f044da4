"""Broken data: each fault is found, named with file, clip and frame or id, and stops a strict load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_construction.check import check_dataset
from data_construction.readers import open_dataset, read_rl_annotations, read_vts_cot
from rollout.errors import DataError

Edit = Callable[[Path, Callable[[Any], object]], None]
META, MASKS = "meta_expressions_train_.json", "mask_dict.json"
CLIP, FRAME = "train_00001", "JPEGImages/train_00001/00004.jpg"


def first_id(root: Path) -> str:
    """An annotation id that the clip's first expression uses."""
    video = json.loads((root / META).read_text())["videos"][CLIP]
    return str(next(e["anno_id"][0] for e in video["expressions"].values() if e["anno_id"]))


def visible(root: Path, anno_id: str) -> int:
    return next(t for t, r in enumerate(json.loads((root / MASKS).read_text())[anno_id]) if r)


def missing_frame(root: Path, edit: Edit) -> tuple[str, ...]:
    (root / FRAME).unlink()
    return "missing_frame", FRAME, f"clip {CLIP}", "frame 00004"


def cut_frame(root: Path, edit: Edit) -> tuple[str, ...]:
    data = (root / FRAME).read_bytes()
    (root / FRAME).write_bytes(data[: len(data) // 2])
    return "unreadable_frame", FRAME, f"clip {CLIP}", "frame 00004"


def small_frame(root: Path, edit: Edit) -> tuple[str, ...]:
    Image.new("RGB", (30, 48)).save(root / FRAME)
    return "frame_size", FRAME, f"clip {CLIP}", "frame 00004", "48 x 30"


def wrong_mask_size(root: Path, edit: Edit) -> tuple[str, ...]:
    a = first_id(root)
    t = visible(root, a)
    edit(root / MASKS, lambda m: m[a][t].update(size=[48, 47]))
    return "mask_size", MASKS, f"clip {CLIP}", f"annotation {a}", f"frame {t:05d}", "(48, 47)"


def short_mask_list(root: Path, edit: Edit) -> tuple[str, ...]:
    a = first_id(root)
    edit(root / MASKS, lambda m: m[a].pop())
    return "mask_count", MASKS, f"clip {CLIP}", f"annotation {a}", "11 entries for 12 frames"


def damaged_runs(root: Path, edit: Edit) -> tuple[str, ...]:
    a = first_id(root)
    t = visible(root, a)
    edit(root / MASKS, lambda m: m[a][t].update(counts=m[a][t]["counts"][:-2]))
    return "mask_runs", MASKS, f"clip {CLIP}", f"annotation {a}", f"frame {t:05d}"


def no_masks(root: Path, edit: Edit) -> tuple[str, ...]:
    a = first_id(root)
    edit(root / MASKS, lambda m: m.pop(a))
    return "no_masks", MASKS, f"clip {CLIP}", f"annotation {a}"


def no_frames(root: Path, edit: Edit) -> tuple[str, ...]:
    edit(root / META, lambda m: m["videos"][CLIP].update(frames=[]))
    return "no_frames", META, f"clip {CLIP}", "without frames"


def no_text(root: Path, edit: Edit) -> tuple[str, ...]:
    edit(root / META, lambda m: m["videos"][CLIP]["expressions"]["0"].pop("exp"))
    return "malformed_expression", META, f"clip {CLIP}", "expression 0", "'exp'"


def no_expressions(root: Path, edit: Edit) -> tuple[str, ...]:
    edit(root / META, lambda m: m["videos"][CLIP].update(expressions={}))
    return "no_expressions", META, f"clip {CLIP}"


def wrong_type(root: Path, edit: Edit) -> tuple[str, ...]:
    edit(root / META, lambda m: m["videos"][CLIP]["expressions"]["0"].update(type_id=2))
    return "target_type", META, f"clip {CLIP}", "expression 0", "type_id 2 with annotation ids"


def frame_twice(root: Path, edit: Edit) -> tuple[str, ...]:
    edit(root / META, lambda m: m["videos"][CLIP]["frames"].__setitem__(5, "00004"))
    return "duplicate_frame", META, f"clip {CLIP}", "frame 00004"


def never_visible(root: Path, edit: Edit) -> tuple[str, ...]:
    a = first_id(root)
    edit(root / MASKS, lambda m: m.update({a: [None] * 12}))
    return "never_visible", MASKS, f"clip {CLIP}", f"annotation {a}"


def shared_clip(root: Path, edit: Edit) -> tuple[str, ...]:
    video = json.loads((root / META).read_text())["videos"][CLIP]
    edit(root / "meta_expressions_valid_.json", lambda m: m["videos"].update({CLIP: video}))
    return "shared_clip", "meta_expressions_valid_.json", f"clip {CLIP}", "split train and in split valid"


FAULTS = [
    missing_frame,
    cut_frame,
    small_frame,
    wrong_mask_size,
    short_mask_list,
    damaged_runs,
    no_masks,
    no_frames,
    no_text,
    no_expressions,
    wrong_type,
    frame_twice,
    never_visible,
    shared_clip,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_fault_is_named_and_stops_a_strict_load(
    fault: Callable[[Path, Edit], tuple[str, ...]], broken: Path, edit: Edit
) -> None:
    code, *named = fault(broken, edit)
    problems = open_dataset("revos", broken, "train").validate()
    assert [p.code for p in problems] == [code]
    for words in named:
        assert words in str(problems[0])
    with pytest.raises(DataError, match=code) as stopped:
        open_dataset("revos", broken, "train", strict=True)
    assert str(broken) in str(stopped.value) and named[0] in str(stopped.value)
    report = check_dataset("revos", broken)
    assert not report.ok and code in report.table() and str(problems[0]) in report.table(width=1000)


def test_sound_data_has_no_problem(tiny: Path) -> None:
    assert open_dataset("revos", tiny, "train", strict=True).validate() == []


def test_files_cut_short_or_missing_are_named(broken: Path) -> None:
    text = (broken / META).read_text()
    (broken / META).write_text(text[: len(text) // 2])
    with pytest.raises(DataError, match=rf"{META}.*cut short"):
        open_dataset("revos", broken, "train")
    (broken / META).unlink()
    with pytest.raises(DataError, match=rf"{META}: missing"):
        open_dataset("revos", broken, "train")
    (broken / MASKS).unlink()
    with pytest.raises(DataError, match=rf"{MASKS}: missing"):
        open_dataset("revos", broken, "valid")
    report = check_dataset("revos", broken, ["train", "valid"])
    assert [p.code for p in report.problems] == ["unusable_split", "unusable_split"]
    assert check_dataset("revos", broken / "nowhere").problems[0].code == "nothing_found"


def test_unknown_names_list_what_there_is(tiny: Path) -> None:
    with pytest.raises(DataError, match=r"'revoss'.*mevis, .*revos"):
        open_dataset("revoss", tiny, "train")
    with pytest.raises(DataError, match=r"no split 'val'; it has train, valid, test"):
        open_dataset("revos", tiny, "val")


def test_reading_on_after_a_bad_clip(broken: Path, edit: Edit) -> None:
    damaged_runs(broken, edit)
    no_text(broken, lambda path, how: edit(path, lambda m: m["videos"]["train_00002"]["expressions"]["0"].pop("exp")))
    data = open_dataset("revos", broken, "train")
    with pytest.raises(DataError, match="mask_runs"):
        list(data.samples())
    errors: list[DataError] = []
    good = list(data.samples(errors.append))
    assert {s.clip.name for s in good} == {"train_00000", CLIP, "train_00002"}
    assert "train_00002/0" not in {s.id for s in good}
    assert len(errors) > 1 and len(good) + len(errors) == len(data) + 1  # That one is not in the index.
    assert "train_00002" in str(errors[-1])


def test_copied_frames_under_another_name_are_found(broken: Path) -> None:
    shutil.rmtree(broken / "JPEGImages/valid_00001")
    shutil.copytree(broken / "JPEGImages/train_00002", broken / "JPEGImages/valid_00001")
    problems = check_dataset("revos", broken).problems
    assert [(p.code, p.clip) for p in problems] == [("same_frames", "valid_00001")]
    assert "clip train_00002 of split train" in problems[0].what


def test_existence_that_disagrees_is_found(broken: Path, edit: Edit) -> None:
    path = broken / "rl_annotations_train.json"
    edit(path, lambda m: m[2][0]["mask_existence"].__setitem__(3, 1 - m[2][0]["mask_existence"][3]))
    data = open_dataset("revos", broken, "train")
    with pytest.raises(DataError, match=r"rl_annotations_train\.json: clip train_00000, record 2, frame 3"):
        list(read_rl_annotations(path, data))
    assert [p.code for p in check_dataset("revos", broken).problems] == ["existence"]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (lambda m: m[1].pop("cot_trace"), "cot_trace"),
        (lambda m: m[1]["cot_trace"][0].update(key_frame=12), "frame index 12 outside 0..11"),
        (lambda m: m[1].update(conversations=[]), "0 assistant turns"),
        (lambda m: m[1]["cot_trace"].extend(m[1]["cot_trace"] * 3), "entries in cot_trace"),
        (lambda m: m.__setitem__(1, "text"), "not a VTS-CoT record"),
    ],
)
def test_malformed_traces_are_named(how: Callable[[Any], object], words: str, broken: Path, edit: Edit) -> None:
    path = broken / "vts_cot_train.json"
    edit(path, how)
    with pytest.raises(DataError, match="record 1") as e:
        read_vts_cot(path)
    assert words in str(e.value) and "vts_cot_train.json" in str(e.value)
    assert [p.code for p in check_dataset("revos", broken).problems] == ["malformed_record"]
