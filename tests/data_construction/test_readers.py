"""One reader for every layout."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from data_construction.readers import (
    dataset_names,
    load_stanza,
    open_dataset,
    read_rl_annotations,
    read_vts_cot,
)
from data_construction.readers.masks import rle_pixels
from rollout.errors import DataError
from rollout.types import Sample


def test_every_stanza_parses() -> None:
    assert {"revos", "mevis", "generic"} <= set(dataset_names())
    for name in dataset_names():
        stanza = load_stanza(name)
        assert stanza.splits and stanza.about


def test_samples_get_and_len_agree(synthetic: Path) -> None:
    data = open_dataset("revos", synthetic, "valid")
    samples = list(data.samples())
    assert len(samples) == len(data) and len({s.id for s in samples}) == len(samples)
    one = samples[5]
    assert data.get(one.clip.name, one.expression.id) == one
    assert Sample.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    assert one.masklets is not None and one.masklets.num_frames == one.clip.num_frames
    assert all(Path(f).is_file() for f in one.clip.frames)
    with pytest.raises(DataError, match=r"valid_00000 has no expression '99'"):
        data.get("valid_00000", "99")
    with pytest.raises(DataError, match="split valid has no clip 'nope'"):
        data.clip("nope")


def test_opening_reads_no_frame_and_no_mask(broken: Path) -> None:
    shutil.rmtree(broken / "JPEGImages")
    (broken / "mask_dict.json").write_text("not json")
    data = open_dataset("revos", broken, "train")
    assert len(data.clips()) == 3 and len(data) > 3
    with pytest.raises(DataError, match=r"mask_dict\.json"):
        data.get(data.clips()[0], "0")


def test_no_target_is_empty_in_every_frame(synthetic: Path) -> None:
    empty = [s for s in open_dataset("revos", synthetic, "train").samples() if s.expression.type_id == 2]
    assert empty
    for s in empty:
        assert s.expression.anno_ids == () and s.masklets is not None
        assert s.masklets.existence().tolist() == [0] * s.clip.num_frames


def as_mevis(source: Path, root: Path) -> None:
    """The same clips in MeViS' layout: folders a split, no sizes, no types; valid without annotations."""
    for split, ours in (("train", "train"), ("valid_u", "valid"), ("valid", "valid")):
        meta = json.loads((source / f"meta_expressions_{ours}_.json").read_text())
        for name, video in meta["videos"].items():
            shutil.copytree(source / "JPEGImages" / name, root / split / "JPEGImages" / name)
            del video["height"], video["width"]
            kept = ("exp",) if split == "valid" else ("exp", "obj_id", "anno_id")
            video["expressions"] = {i: {k: e[k] for k in kept} for i, e in video["expressions"].items()}
        (root / split / "meta_expressions.json").write_text(json.dumps(meta))
        if split != "valid":
            shutil.copy(source / "mask_dict.json", root / split)


def test_mevis_layout_reads_the_same_samples(tiny: Path, tmp_path: Path) -> None:
    as_mevis(tiny, tmp_path)
    ours, theirs = open_dataset("revos", tiny, "train"), open_dataset("mevis", tmp_path, "train", strict=True)
    assert theirs.clip("train_00001").height == 48
    for a, b in zip(ours.samples(), theirs.samples(), strict=True):
        assert (a.expression.text, a.expression.anno_ids, a.masklets) == (
            b.expression.text,
            b.expression.anno_ids,
            b.masklets,
        )
        assert b.clip.frames[0].endswith(f"train/JPEGImages/{b.clip.name}/00000.jpg")
    assert all(s.masklets is None for s in open_dataset("mevis", tmp_path, "valid").samples())


def test_clip_names_with_slashes_and_frames_beside_the_json(tiny: Path, tmp_path: Path) -> None:
    meta = json.loads((tiny / "meta_expressions_train_.json").read_text())
    meta["videos"] = {f"UVO/all/{k}": v for k, v in meta["videos"].items()}
    (tmp_path / "meta_expressions_train_.json").write_text(json.dumps(meta))
    shutil.copy(tiny / "mask_dict.json", tmp_path)
    shutil.copytree(tiny / "JPEGImages", tmp_path / "UVO" / "all")
    data = open_dataset("revos", tmp_path, "train", strict=True)
    assert data.clip("UVO/all/train_00000").frames[3] == str(tmp_path / "UVO/all/train_00000/00003.jpg")


def make_generic(root: Path, masks: bool) -> None:
    for clip, suffix in (("cats", "png"), ("dogs", "jpg")):
        (root / clip).mkdir(parents=True)
        for t in range(3):
            Image.new("RGB", (20, 10), (t, 0, 0)).save(root / clip / f"{t:03d}.{suffix}")
            if masks:
                (root / "Annotations" / clip).mkdir(parents=True, exist_ok=True)
                values = np.zeros((10, 20), np.uint8)
                values[:4, :5], values[6:, 8:] = 1, 2
                Image.fromarray(values if t else values * 0).save(root / "Annotations" / clip / f"{t:03d}.png")


def test_generic_folder_without_anything_can_be_asked(tmp_path: Path) -> None:
    make_generic(tmp_path, masks=False)
    data = open_dataset("generic", tmp_path, "all", strict=True)
    assert data.clips() == ["cats", "dogs"] and len(data) == 0 and data.validate() == []
    sample = data.ask("dogs", "the one that barks")
    assert sample.masklets is None and sample.clip.num_frames == 3
    assert (sample.clip.height, sample.clip.width) == (10, 20)


def test_generic_folder_with_expressions_and_masks(tmp_path: Path) -> None:
    make_generic(tmp_path, masks=True)
    texts = {"cats": ["everything"], "dogs": {"a": {"exp": "the second", "anno_id": [2]}}}
    (tmp_path / "expressions.json").write_text(json.dumps(texts))
    data = open_dataset("generic", tmp_path, "all", strict=True)
    everything, second = (s.masklets for s in data.samples())
    assert everything is not None and second is not None
    assert everything.areas().tolist() == [0, 20 + 48, 68] and second.areas().tolist() == [0, 48, 48]
    (tmp_path / "expressions.json").write_text(json.dumps({"birds": ["x"]}))
    with pytest.raises(DataError, match=r"expressions\.json: clip birds: has expressions but no folder of frames"):
        list(open_dataset("generic", tmp_path, "all").samples())


def test_a_new_data_set_is_one_stanza(tiny: Path, tmp_path: Path) -> None:
    """A list of expressions under other names (as ReasonVOS has them) needs no code."""
    meta = json.loads((tiny / "meta_expressions_valid_.json").read_text())
    for video in meta["videos"].values():
        rows = video.pop("expressions").values()
        video["questions"] = [{"exp_text": e["exp"], "obj": e["anno_id"]} for e in rows]
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    stanza = tmp_path / "mine.yaml"
    stanza.write_text(
        "annotation_format: meta_expressions\nmask_format: rle_dict\n"
        "keys: {expressions: questions, text: exp_text, anno_ids: obj}\n"
        f"splits: {{test: {{annotations: {tmp_path}/meta.json, masks: mask_dict.json,"
        ' frames: "JPEGImages/{clip}/{frame}.jpg"}}\n'
    )
    ours, mine = open_dataset("revos", tiny, "valid"), open_dataset(str(stanza), tiny, "test", strict=True)
    assert [s.masklets for s in mine.samples()] == [s.masklets for s in ours.samples()]
    assert [s.expression.text for s in mine.samples()] == [s.expression.text for s in ours.samples()]
    stanza.write_text("annotation_format: x\nmask_format: y\nmaskfile: 3\nsplits: {}\n")
    with pytest.raises(DataError, match=r"unknown key 'maskfile'"):
        load_stanza(str(stanza))


def test_rl_annotations_and_traces_round_trip(synthetic: Path) -> None:
    data = open_dataset("revos", synthetic, "train")
    from_file = list(read_rl_annotations(synthetic / "rl_annotations_train.json", data))
    assert from_file == list(data.samples())
    raw = json.loads((synthetic / "rl_annotations_train.json").read_text())
    for item, sample in zip(raw, from_file, strict=True):
        assert set(item[0]) == {"video_name", "frames", "exp", "anno_id", "mask_existence"}
        assert sample.masklets is not None
        assert item[0]["mask_existence"] == sample.masklets.existence().tolist()
    records = read_vts_cot(synthetic / "vts_cot_train.json")
    assert [r.to_dict() for r in records] == json.loads((synthetic / "vts_cot_train.json").read_text())


def test_run_lengths_are_summed_as_pycocotools_wrote_them() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        h, w = rng.integers(1, 90, 2)
        mask = np.asfortranarray((rng.random((h, w)) < rng.random()).astype(np.uint8))
        counts = coco_mask.encode(mask)["counts"]
        assert rle_pixels(counts) == rle_pixels(counts.decode()) == h * w
        assert rle_pixels(counts[:-1]) != h * w
    for bad in (b"", b"\x01", b"zz", None, [3, 4], b"P"):
        assert rle_pixels(bad) == -1


def test_readers_import_no_torch() -> None:
    code = (
        "import sys, data_construction.check, data_construction.synthetic, data_construction.cot\n"
        "heavy = {'torch', 'ray', 'transformers', 'verl', 'vllm', 'cv2'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
