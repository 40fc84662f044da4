"""The other layouts that data sets circulate in give the same samples as the official one."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_construction.layouts import DrawnClip, draw_clips, write_layout
from data_construction.layouts.writing import frame_names, one_object, write_frames, write_json, write_video
from data_construction.readers import open_dataset
from data_construction.readers.annotations import ClipEntry, LazyIndex
from data_construction.readers.formats.groundmore import action_frames, seconds, window
from data_construction.readers.rle_forms import as_rle
from rollout.errors import DataError
from rollout.frames import load_frame
from rollout.types import Sample


def facts(samples: list[Sample]) -> list[tuple[Any, ...]]:
    """What must not depend on the layout: clip, text, kind and pixels."""
    found = []
    for s in samples:
        assert s.masklets is not None
        pixels = [np.packbits(s.masklets.union(t)).tobytes() for t in range(s.clip.num_frames)]
        found.append((s.clip.name, s.expression.text, s.expression.kind, pixels))
    return found


def test_reasonvos_as_videoseg_o3_formats_it(tmp_path: Path) -> None:
    write_layout("reasonvos", tmp_path / "a", clips=2)
    official = list(open_dataset("reasonvos", tmp_path / "a", "test").samples())
    root = tmp_path / "b"
    masks: dict[str, Any] = {}
    videos: dict[str, Any] = {}
    for clip in draw_clips("reasonvos", "test", clips=2):
        write_frames(root / "JPEGImages" / clip.name, clip, frame_names(clip))
        asked = [s for s in official if s.clip.name == clip.name]
        expressions = {}
        for n, s in enumerate(asked):
            masks[str(len(masks))] = clip.rles(int(s.expression.anno_ids[0]) - 1)
            expressions[str(n)] = {"exp": s.expression.text, "anno_id": len(masks) - 1}
        source = asked[0].expression.kind
        frames = frame_names(clip)
        videos[clip.name] = {"vid_id": clip.number, "source": source, "frames": frames, "expressions": expressions}
    write_json(root / "meta_expressions_format.json", {"videos": videos})
    write_json(root / "mask_dict.json", masks)
    again = open_dataset("reasonvos", root, "test", strict=True)
    assert facts(list(again.samples())) == facts(official)


def test_long_rvos_with_a_mask_dictionary(tmp_path: Path) -> None:
    write_layout("long_rvos", tmp_path / "r", clips=2)
    root = tmp_path / "r/train"
    official = facts(list(open_dataset("long_rvos", tmp_path / "r", "train").samples()))
    masks: dict[str, Any] = {}
    meta = json.loads((root / "meta_expressions.json").read_text())
    for clip in draw_clips("long_rvos", "train", clips=2):
        for e in meta["videos"][clip.name]["expressions"].values():
            masks[str(len(masks))] = clip.rles(int(e["obj_id"]) - 1)
            e["anno_id"] = [len(masks) - 1]
    write_json(root / "meta_expressions_with_anno.json", meta)
    write_json(root / "mask_dict.json", masks)
    (root / "Annotations").rename(root / "elsewhere")
    data = open_dataset("long_rvos", tmp_path / "r", "train", strict=True)
    assert data.files.mask_format == "rle_dict" and facts(list(data.samples())) == official


def test_long_rvos_test_without_masks_is_read_without(tmp_path: Path) -> None:
    write_layout("long_rvos", tmp_path / "r", clips=1)
    (tmp_path / "r/test/Annotations").rename(tmp_path / "elsewhere")
    assert all(s.masklets is None for s in open_dataset("long_rvos", tmp_path / "r", "test", strict=True).samples())
    (tmp_path / "r/valid/Annotations").rename(tmp_path / "elsewhere2")
    with pytest.raises(DataError, match=r"valid/Annotations: missing; data set long_rvos needs it for valid"):
        open_dataset("long_rvos", tmp_path / "r", "valid")


def test_ref_ytvos_with_masks_in_a_pickle(tmp_path: Path) -> None:
    root = tmp_path / "y"
    write_layout("ref_ytvos", root, clips=2)
    official = facts(list(open_dataset("ref_ytvos", root, "train").samples()))
    clips = {c.name: c for c in draw_clips("ref_ytvos", "train", clips=2)}
    meta = json.loads((root / "meta_expressions/train/meta_expressions.json").read_text())["videos"]
    masks: dict[str, Any] = {}
    for name in sorted(meta):
        for eid in sorted(meta[name]["expressions"]):
            k = int(meta[name]["expressions"][eid]["obj_id"]) - 1
            masks[str(len(masks))] = [r and {**r, "counts": r["counts"].encode()} for r in clips[name].rles(k)]
    (root / "mask_dict.pkl").write_bytes(pickle.dumps(masks))
    (root / "train/Annotations").rename(root / "elsewhere")
    data = open_dataset("ref_ytvos", root, "train", strict=True)
    assert facts(list(data.samples())) == official


def test_ref_sav_frames_may_be_extracted(tmp_path: Path) -> None:
    root = tmp_path / "s"
    write_layout("ref_sav", root, clips=2)
    official = facts(list(open_dataset("ref_sav", root, "valid").samples()))
    for clip in draw_clips("ref_sav", "valid", clips=2):
        (root / f"videos/{clip.name[:7]}/{clip.name}.mp4").unlink()
        write_frames(root / "videos" / clip.name, clip, frame_names(clip, 4))
    data = open_dataset("ref_sav", root, "valid", strict=True)
    assert facts(list(data.samples())) == official
    assert data.clip("sav_001000").frames[2].endswith("videos/sav_001000/00008.jpg")


def vicas_video(root: Path, clip: DrawnClip, fps: int) -> None:
    for path in (root / "videos").glob(f"{clip.name}_*"):
        path.unlink()
    write_video(root / "videos" / f"{clip.name}_some_video.mp4", clip.frames, fps)


def test_vicas_from_videos_only_at_its_own_rate(tmp_path: Path) -> None:
    root, clip = tmp_path / "v", draw_clips("vicas", "val", clips=2)[1]
    write_layout("vicas", root, clips=2)
    data = open_dataset("vicas", root, "val", strict=True)
    assert data.clip(clip.name).frames[7].endswith(f"videos/{clip.name}_some_video.mp4#7")
    vicas_video(root, clip, 25)
    with pytest.raises(DataError, match=r"has 25 frames a second, the annotations count 30; extract its frames"):
        open_dataset("vicas", root, "val").clip(clip.name)
    problems = open_dataset("vicas", root, "val").validate()
    assert {(p.code, p.clip) for p in problems} == {("frame_rate", clip.name)}


def test_generic_videos_can_be_asked(tmp_path: Path) -> None:
    clip = draw_clips("generic", "all", clips=1)[0]
    write_video(tmp_path / "cats.mp4", clip.frames, 8)
    write_video(tmp_path / "videos/dogs.mkv", clip.frames, 8)
    data = open_dataset("generic", tmp_path, "all", strict=True)
    assert data.clips() == ["cats", "dogs"] and len(data) == 0
    sample = data.ask("dogs", "the dog")
    assert sample.clip.num_frames == clip.num_frames and sample.clip.frames[3].endswith("videos/dogs.mkv#3")
    assert load_frame(sample.clip, 3).size == (64, 48)


def test_masks_of_one_object_may_be_in_colour(tmp_path: Path) -> None:
    root = tmp_path / "r"
    write_layout("long_rvos", root, clips=1)
    official = facts(list(open_dataset("long_rvos", root, "valid").samples()))
    for path in (root / "valid/Annotations").rglob("*.png"):
        with Image.open(path) as image:
            colored = image.convert("RGB")
        colored.save(path)
    assert facts(list(open_dataset("long_rvos", root, "valid", strict=True).samples())) == official


def test_a_video_listed_as_mkv_may_be_an_mp4(tmp_path: Path) -> None:
    root = tmp_path / "c"
    write_layout("chatunivi", root, clips=2)
    text = (root / "video_chat.json").read_text()
    (root / "video_chat.json").write_text(text.replace("v_00001.mp4", "v_00001.mkv"))
    clip = open_dataset("chatunivi", root, "train", strict=True).clip("v_00001.mkv")
    assert clip.frames[3].endswith("Activity_Videos/v_00001.mp4#3")


def test_entries_are_made_when_asked_for_and_few_are_kept(tmp_path: Path) -> None:
    made: list[str] = []

    def make(name: str) -> ClipEntry:
        made.append(name)
        if name == "13":
            raise DataError("no good")
        return ClipEntry(name, ("0",), {})

    index = LazyIndex((str(n) for n in range(50)), make, tmp_path / "file.json")
    assert len(index) == 50 and "13" in index and "50" not in index and made == []
    assert [e.name for e in index.values()] == [str(n) for n in range(50)] and len(made) == 50
    assert index["49"].name == index["42"].name.replace("42", "49") and len(made) == 50
    assert index["1"].name == "1" and len(made) == 51
    (problem,) = index["13"].problems
    assert problem.clip == "13" and "no good" in str(problem) and "file.json" in str(problem)
    with pytest.raises(KeyError):
        index["50"]


@pytest.mark.parametrize(
    ("clip", "start", "end", "wanted"),
    [
        ("x_0100_0130", "1:00", "1:05", (0, 29)),
        ("x_0100_0130", "1:02", "1:03", (12, 17)),
        ("x_5955_6010", "59:58", "1:00:02", (18, 41)),
        ("x_0000_0010", "3", "0:00:04", (18, 23)),
        ("x_0237_0242", "2:38", "2:38", (6, 5)),  # of no length
        ("x_0237_0242", "2:35", "2:39", (-12, 11)),  # from before the clip
        ("x_0237_0242", "2:40", "2:44", (18, 41)),  # beyond its end
    ],
)
def test_action_frames(clip: str, start: str, end: str, wanted: tuple[int, int]) -> None:
    assert action_frames(clip, start, end, 6) == wanted


def test_windows_and_clocks() -> None:
    assert window("3@6-17") == ("3", range(6, 18)) and window("3") == ("3", None)
    assert window("3@-12-11") == ("3", range(-12, 12)) and list(window("3@6-5")[1] or ()) == []
    assert window("3@-18--7") == ("3", range(-18, -6))
    assert seconds("1:02:03") == 3723
    with pytest.raises(DataError, match="object@first-last"):
        window("3@x")


def test_polygons_merge_and_plain_runs_are_packed() -> None:
    clip = draw_clips("refcoco", "train", clips=1)[0]
    assert one_object(clip)
    merged = as_rle([[1, 1, 5, 1, 5, 5, 1, 5], [10, 10, 14, 10, 14, 14, 10, 14]], lambda: (20, 30))
    assert merged is not None and merged["size"] == [20, 30]
    assert as_rle(None, lambda: (20, 30)) is None and as_rle([], lambda: (20, 30)) is None
    packed = as_rle({"size": [2, 3], "counts": [1, 2, 3]}, lambda: (2, 3))
    assert packed is not None and isinstance(packed["counts"], bytes)
    for wrong in ({"size": [2, 3], "counts": [1, 2]}, [[1, 2, 3]], "x", 7):
        with pytest.raises((TypeError, ValueError)):
            as_rle(wrong, lambda: (2, 3))
