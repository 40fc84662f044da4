"""Sound data in forms that our own writers do not make: what macOS, Windows, cameras and other libraries leave."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from data_construction.check import check_dataset
from data_construction.check_manifest import verify_manifest, write_manifest
from data_construction.layouts import write_layout
from data_construction.readers import open_dataset
from data_construction.readers.indexed_json import IndexedJson
from data_construction.readers.listing import in_order
from data_construction.readers.png_values import voc_palette
from data_construction.readers.rle_forms import as_rle
from data_construction.readers.stanza import load_stanza
from data_construction.readers.timing import Timing, clip_timing, rate_problem
from data_construction.traces.json_list import read_json_list
from data_construction.traces.jsonl import whole_lines
from rollout.errors import DataError
from tests.videos import write_video

SIZE = (32, 48)
BOX = (4, 4, 12, 12)
"""Left, top, right, bottom: 64 pixels."""
APPLE = b"\x00\x05\x16\x07" + bytes(60)


def frame(path: Path, number: int = 0, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], (10 + 15 * number,) * 3).save(path)


def mask(path: Path, value: Any = 1, mode: str = "L", size: tuple[int, int] = SIZE, empty: Any = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new(mode, size[::-1], empty)
    image.paste(value, BOX)
    if mode == "I;16":
        image = Image.fromarray(np.where(np.asarray(image) > 0, value, 0).astype(np.uint16))
    image.save(path)


def generic(root: Path, frames: int = 3, clip: str = "c", texts: Any = None, **masks: Any) -> Path:
    for t in range(frames):
        frame(root / "JPEGImages" / clip / f"{t:05d}.jpg", t)
        if masks:
            mask(root / "Annotations" / clip / f"{t:05d}.png", **masks)
    (root / "expressions.json").write_text(json.dumps(texts or {clip: ["the thing"]}))
    return root


def areas(root: Path, name: str = "generic", split: str = "all") -> list[int]:
    (sample,) = open_dataset(name, root, split, strict=True).samples()
    assert sample.masklets is not None
    return sample.masklets.areas().tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("form", ["{}.jpg", "frame_{}.png", "img ({}).JPG", "clip2_f{}.jpeg", "{}.0.jpg"])
def test_frames_come_in_the_order_of_their_numbers(form: str, tmp_path: Path) -> None:
    for t in range(12):
        frame(tmp_path / "c" / form.format(t), t)
    clip = open_dataset("generic", tmp_path, "all").clip("c")
    seen = [round((Image.open(f).convert("L").getpixel((0, 0)) - 10) / 15) for f in clip.frames]  # type: ignore
    assert seen == [*range(12)]


def test_in_order() -> None:
    assert in_order(["b.jpg", "a10.jpg", "a9.jpg", "a.jpg"]) == ["a.jpg", "a9.jpg", "a10.jpg", "b.jpg"]
    assert in_order(["1", "01", "f.10", "f.9"]) == ["01", "1", "f.9", "f.10"]


@pytest.mark.parametrize("layout", ["mevis", "ref_ytvos", "vicas"])
def test_frames_listed_out_of_order_keep_their_masks(layout: str, tmp_path: Path) -> None:
    """The official loaders sort before they pair frames with masks."""

    def found(root: Path) -> dict[str, Any]:
        return {s.id: (s.clip.frames, s.masklets) for s in open_dataset(layout, root, "train").samples()}

    write_layout(layout, tmp_path, clips=1)
    before = found(tmp_path)
    for file in tmp_path.rglob("*.json"):
        content = json.loads(file.read_text())
        for video in content.get("videos", {}).values() if isinstance(content, dict) else ():
            video["frames"].reverse()
        if isinstance(content, dict) and "segmentations" in content:
            content["segmentations"].reverse()
        file.write_text(json.dumps(content))
    assert found(tmp_path) == before and before


@pytest.mark.parametrize(("layout", "file"), [("rl_annotations", "rl_revos_data"), ("vts_cot", "revos")])
def test_indices_into_frames_out_of_order_are_named(layout: str, file: str, tmp_path: Path) -> None:
    """Existence and indices are in the file's order, masks in the frames': nobody can tell what was meant."""
    write_layout(layout, tmp_path, clips=2)
    (path,) = tmp_path.rglob(f"{file}.json")
    content = json.loads(path.read_text())
    first = content[0][0] if isinstance(content[0], list) else content[0]
    first["frames"].reverse()
    path.write_text(json.dumps(content))
    errors: list[DataError] = []
    rest = list(open_dataset(layout, tmp_path, "revos").samples(errors.append))
    assert rest and "[frame_order]" in str(errors[0]) and first["video_name"] in str(errors[0])


def litter(root: Path) -> None:
    for folder in {p.parent for p in root.rglob("*") if p.is_file()}:
        for p in [*folder.iterdir()]:
            if p.is_file():
                (folder / f"._{p.name}").write_bytes(APPLE)
        (folder / ".DS_Store").write_bytes(APPLE)
        (folder / "Thumbs.db").write_bytes(APPLE)
    frame(root / "__MACOSX" / "x.jpg")
    frame(root / "@eaDir" / "y.jpg")


def test_what_systems_leave_behind_is_no_part_of_a_data_set(tmp_path: Path) -> None:
    roots = {"generic": generic(tmp_path / "g", value=1)}
    frame(tmp_path / "flat" / "c" / "0.jpg")
    roots["flat"] = tmp_path / "flat"
    for name in ("groundmore", "reasonseg", "vicas", "long_rvos"):
        write_layout(name, tmp_path / name, clips=1)
        roots[name] = tmp_path / name
    for name, root in roots.items():
        dataset = "generic" if name == "flat" else name
        before = check_dataset(dataset, root)
        write_manifest(root, tmp_path / f"{name}.jsonl", dataset)
        litter(root)
        after = check_dataset(dataset, root)
        assert after.ok and after.splits == before.splits and after.splits, (name, after.problems)
        assert not list(verify_manifest(root, tmp_path / f"{name}.jsonl"))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_text_as_windows_editors_save_it(encoding: str, tmp_path: Path) -> None:
    def saved(path: Path) -> None:
        text = path.read_bytes().decode("cp1252" if "reasonseg" in str(path) else "utf-8").replace("\n", "\r\n")
        path.write_bytes((b"\xfe\xff" if encoding == "utf-16-be" else b"") + text.encode(encoding))

    for name, split in (("generic", "all"), ("mevis", "train"), ("timelens", "train"), ("reasonseg", "train")):
        root = tmp_path / name
        if name == "generic":
            generic(root, value=1)
        else:
            write_layout(name, root, clips=1)
        before = [s.expression for s in open_dataset(name, root, split).samples()]
        for path in (*root.rglob("*.json"), *root.rglob("*.jsonl")):
            saved(path)
        assert [s.expression for s in open_dataset(name, root, split, strict=True).samples()] == before and before
    records = tmp_path / "list.json"
    records.write_text('[{"a": "ä"}]', encoding="utf-8")
    saved(records)
    assert list(read_json_list(records)) == [{"a": "ä"}]


def test_a_mark_before_a_large_mapping_and_before_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "mask_dict.json"
    path.write_bytes(b'\xef\xbb\xbf{"1": [null], "2": [null, null]}')
    assert dict(IndexedJson(path)) == {"1": [None], "2": [None, None]}
    path.write_bytes(b'\xef\xbb\xbf{"id": "a"}\r\n')
    assert [(at, json.loads(line)) for _, at, line in whole_lines(path)] == [(3, {"id": "a"})]
    path.write_bytes('{"id": "a"}\n'.encode("utf-16"))
    with pytest.raises(DataError, match="is UTF-16 text; save it as UTF-8"):
        list(whole_lines(path))
    (tmp_path / "g").mkdir()
    (tmp_path / "g/expressions.json").write_bytes('{"c": ["x"]}'.encode("utf-16-le"))
    with pytest.raises(DataError, match="UTF-16 without a mark"):
        open_dataset("generic", tmp_path / "g", "all")


@pytest.mark.parametrize(
    ("mode", "value", "empty"),
    [
        *[("L", 255, 0), ("1", 1, 0), ("P", 7, 0), ("I;16", 300, 0), ("LA", (255, 255), (0, 0))],
        *[("RGB", (200, 10, 30), (0, 0, 0)), ("RGBA", (9, 9, 9, 255), (0, 0, 0, 0))],
        ("RGBA", (0, 0, 0, 255), (0, 0, 0, 0)),
    ],
)
def test_a_mask_in_every_form_that_libraries_write(mode: str, value: Any, empty: Any, tmp_path: Path) -> None:
    assert areas(generic(tmp_path, mode=mode, value=value, empty=empty)) == [64] * 3


def test_objects_in_masks_that_lost_their_palette(tmp_path: Path) -> None:
    texts = {"c": {"0": {"exp": "the thing", "anno_id": [2]}}}
    assert areas(generic(tmp_path / "grey", texts=texts, mode="RGB", value=(2, 2, 2))) == [64] * 3
    assert areas(generic(tmp_path / "voc", texts=texts, mode="RGB", value=voc_palette()[2])) == [64] * 3
    assert voc_palette()[:4] == [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)] and len({*voc_palette()}) == 256
    assert areas(generic(tmp_path / "wide", texts={"c": {"0": {"exp": "x", "anno_id": [300]}}}, mode="I;16", value=300))
    with pytest.raises(DataError, match=r"neither grey nor of the usual palette.*save grey or palette"):
        areas(generic(tmp_path / "other", texts=texts, mode="RGB", value=(200, 10, 30)))


def square() -> np.ndarray[Any, Any]:
    out = np.zeros(SIZE, np.uint8, order="F")
    out[4:12, 4:12] = 1
    return out


def test_an_rle_in_every_form() -> None:
    packed = coco_mask.encode(square())
    runs, bits = [], square().ravel(order="F")
    for n, run in enumerate(np.split(bits, np.flatnonzero(np.diff(bits)) + 1)):
        runs += [0] * (n == 0 and int(run[0])) + [len(run)]
    text = {**packed, "counts": packed["counts"].decode()}
    polygon = [4, 4, 12, 4, 12, 12, 4, 12]
    points = [[4, 4], [12, 4], [12, 12], [4, 12]]
    forms = [
        packed,
        text,
        {"size": [*SIZE], "counts": runs},
        [text],
        [packed, None],
        polygon,
        [polygon],
        points,
        [points],
    ]
    for form in forms:
        rle = as_rle(form, lambda: SIZE)
        assert rle is not None
        counts = rle["counts"].encode() if isinstance(rle["counts"], str) else rle["counts"]
        assert np.array_equal(coco_mask.decode({"size": rle["size"], "counts": counts}), square()), form
    for nothing in (None, [], {}, "", [[]], [None]):
        assert as_rle(nothing, lambda: SIZE) is None
    for wrong in (7, {"size": [2, 2], "counts": [1, 2]}, {"size": [2, 2], "counts": [5, -1]}, [1, 2, 3]):
        with pytest.raises((TypeError, ValueError)):
            as_rle(wrong, lambda: SIZE)


@pytest.mark.parametrize("form", ["runs", "by_frame", "lists"])
def test_mask_files_in_other_forms_read_alike(form: str, tmp_path: Path) -> None:
    def found() -> list[Any]:
        samples = open_dataset("mevis", tmp_path, "train", strict=True).samples()
        return [s.masklets.areas().tolist() for s in samples if s.masklets is not None]

    write_layout("mevis", tmp_path, clips=1)
    before, file = found(), tmp_path / "train/mask_dict.json"
    frames = next(iter(json.loads((tmp_path / "train/meta_expressions.json").read_text())["videos"].values()))["frames"]
    changed = {}
    for key, rles in json.loads(file.read_text()).items():
        if form == "by_frame":
            changed[key] = {f: r for f, r in zip(frames, rles, strict=True) if r is not None}
        elif form == "lists":
            changed[key] = [[] if r is None else [r] for r in rles]
        else:
            changed[key] = [None if r is None else _plain_runs(r) for r in rles]
    file.write_text(json.dumps(changed))
    assert found() == before and before


def _plain_runs(rle: dict[str, Any]) -> dict[str, Any]:
    from data_construction.readers.masks import run_lengths

    return {"size": rle["size"], "counts": run_lengths(rle["counts"]).tolist()}


@pytest.mark.parametrize("disk", ["NFC", "NFD"])
@pytest.mark.parametrize("said", ["NFC", "NFD"])
def test_accents_may_be_written_in_either_way(disk: Any, said: Any, tmp_path: Path) -> None:
    name = "Bär é"
    generic(tmp_path, clip=normalize(disk, name), texts={normalize(said, name): ["the thing"]}, value=1)
    assert areas(tmp_path) == [64] * 3
    write_layout("ref_ytvos", tmp_path / "y", clips=1)
    meta = tmp_path / "y/meta_expressions/train/meta_expressions.json"
    content = json.loads(meta.read_text())
    (old,) = content["videos"]
    content["videos"] = {normalize(said, name): content["videos"][old]}
    meta.write_text(json.dumps(content))
    for folder in ("JPEGImages", "Annotations"):
        (tmp_path / "y/train" / folder / old).rename(tmp_path / "y/train" / folder / normalize(disk, name))
    data = open_dataset("ref_ytvos", tmp_path / "y", "train", strict=True)
    assert all(s.masklets is not None and s.masklets.areas().any() for s in data.samples())


@pytest.mark.parametrize("change", [lambda n: n.upper(), lambda n: n[:-4] + ".jpeg", lambda n: n[:-4] + ".png"])
def test_frames_with_another_suffix(change: Callable[[str], str], tmp_path: Path) -> None:
    write_layout("mevis", tmp_path, clips=1)
    for path in (tmp_path / "train/JPEGImages").rglob("*.jpg"):
        path.rename(path.with_name(change(path.name)))
    assert check_dataset("mevis", tmp_path, ["train"]).ok


def test_frames_listed_with_their_suffix(tmp_path: Path, edit: Callable[[Path, Any], None]) -> None:
    write_layout("ref_ytvos", tmp_path, clips=1)

    def add(content: Any) -> None:
        for video in content["videos"].values():
            video["frames"] = [f"{name}.jpg" for name in video["frames"]]

    edit(tmp_path / "meta_expressions/train/meta_expressions.json", add)
    assert check_dataset("ref_ytvos", tmp_path, ["train"]).ok


@pytest.mark.parametrize("form", ["{}.png", "{:05d}.png", "{:03d}.PNG", "{:05d}.jpg.png"])
def test_masks_of_a_videos_frames_with_and_without_zeros(form: str, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos/c.MP4", [*range(0, 400, 40)])
    for t in range(10):
        mask(tmp_path / "Annotations/c" / form.format(t), size=(48, 64))
    (tmp_path / "expressions.json").write_text('{"c": ["the thing"]}')
    assert areas(tmp_path) == [64] * 10
    assert check_dataset("generic", tmp_path).ok


def turned(path: Path, tag: int, size: tuple[int, int] = SIZE) -> None:
    frame(path, size=size)
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.open(path).save(path, exif=exif)


@pytest.mark.parametrize(
    ("tag", "photo", "masks", "named"),
    [
        (6, SIZE, SIZE, False),  # masks were drawn on the pixels as stored
        (6, SIZE, SIZE[::-1], True),
        (6, (32, 32), (32, 32), True),  # sizes cannot tell
        (3, SIZE, SIZE, True),
        (1, SIZE, SIZE, False),
        (6, SIZE, None, True),  # without masks a policy sees it lying
    ],
)
def test_check_names_photos_whose_orientation_masks_may_disagree_with(
    tag: int, photo: tuple[int, int], masks: tuple[int, int] | None, named: bool, tmp_path: Path
) -> None:
    generic(tmp_path)
    for t in range(3):
        turned(tmp_path / f"JPEGImages/c/{t:05d}.jpg", tag, photo)
        if masks is not None:
            mask(tmp_path / f"Annotations/c/{t:05d}.png", size=masks)
    found = [p for p in check_dataset("generic", tmp_path).problems if p.code == "orientation"]
    assert [(p.clip, p.frame) for p in found] == [("c", "00000.jpg")] * named
    assert all(f"EXIF orientation {tag}" in p.what and "auto-orient" in p.remedy for p in found)


def test_a_clip_that_is_not_there_is_a_problem_of_its_own(tmp_path: Path) -> None:
    data = open_dataset("generic", generic(tmp_path, texts={"c": ["x"], "gone": ["y", "z"]}, value=1), "all")
    errors: list[DataError] = []
    assert [s.id for s in data.samples(errors.append)] == ["c/0"] and len(errors) == 1
    assert "clip gone: has expressions but no folder of frames or video" in str(errors[0])
    assert [e.id for e in data.expressions("gone")] == ["0", "1"]
    report = check_dataset("generic", tmp_path)
    assert [(p.code, p.clip) for p in report.problems] == [("missing_frame", "gone")]
    assert report.splits["all"].set_aside == 2


def test_uneven_times_are_refused_where_annotations_count_frames(tmp_path: Path) -> None:
    """ViCaS' masks are of 30 frames a second: in a video of uneven times frame 30 is not that of second one."""
    stanza = load_stanza("vicas").split("val")
    even = write_video(tmp_path / "even.mp4", [round(1000 * t / 30) for t in range(40)])
    uneven = write_video(tmp_path / "uneven.mp4", [*range(0, 600, 20), *range(1000, 1500, 50)])
    assert rate_problem(Path(f"{even}#0"), stanza, "c") is None
    problem = rate_problem(Path(f"{uneven}#0"), stanza, "c")
    assert problem is not None and problem.code == "frame_rate" and "extract its frames at 30" in problem.remedy


def test_a_clips_times_are_its_videos(tmp_path: Path) -> None:
    files = load_stanza("generic").split("all")
    even = write_video(tmp_path / "even.mp4", [*range(0, 1600, 40)])
    assert clip_timing([Path(f"{even}#{t}") for t in range(40)], files) == Timing(25.0)
    assert clip_timing([Path(f"{even}#{t}") for t in range(0, 40, 5)], files) == Timing(5.0)
    assert clip_timing([Path(f"{even}#{t}") for t in (3, 4, 9)], files) == Timing(2 / 0.24, (0.0, 0.04, 0.24))
    assert clip_timing([tmp_path / "gone.mp4#0"], files) == Timing(None)
    (tmp_path / "bad.mp4").write_text("no video")
    assert clip_timing([tmp_path / "bad.mp4#0"], files) == Timing(None)
