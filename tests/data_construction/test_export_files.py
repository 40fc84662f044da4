"""What exports leave on disk: pictures by their frame's version, nothing torn, nothing outside the folder."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from data_construction.export import export
from data_construction.traces import Sources
from eval.traces import write_gallery
from rollout.errors import DataError, RecipeError
from tests.data_construction.trace_files import Line, boxed, planned, write


@pytest.fixture(scope="module")
def lines(synthetic: Path) -> list[Line]:
    return planned(synthetic)[:2] + boxed(synthetic)[:1]


def pictures(file: Path) -> list[str]:
    return [name for item in json.loads(file.read_text()) for name in item["images"]]


def test_a_frame_that_changed_gets_another_picture(lines: list[Line], synthetic: Path, tmp_path: Path) -> None:
    root, out = Path(shutil.copytree(synthetic, tmp_path / "data")), tmp_path / "out"
    source, sources = write(tmp_path / "verified.jsonl", lines[2:]), Sources.parse([str(root)])
    first = pictures(export(source, out, sources, "sharegpt").files[0])
    assert pictures(export(source, out, sources, "sharegpt").files[0]) == first
    frame = next(root.glob(f"JPEGImages/{lines[2]['clip']}/{lines[2]['record']['frames'][0]:05d}.jpg"))
    Image.new("RGB", Image.open(frame).size, (255, 0, 255)).save(frame)
    second = pictures(export(source, out, sources, "sharegpt").files[0])
    assert first[1:] == second[1:] and first[0] != second[0]
    with Image.open(out / second[0]) as image:
        red, green, blue = image.convert("RGB").getpixel((5, 5))  # type: ignore[misc]
    assert red > 200 and green < 60 and blue > 200
    other = Sources.parse([str(shutil.copytree(root, tmp_path / "elsewhere"))])
    assert set(pictures(export(source, out, other, "sharegpt").files[0])).isdisjoint(second)


@pytest.mark.parametrize("name", ["../../outside", "a/../../..", "/outside"])
def test_pictures_stay_in_their_folder(
    name: str, lines: list[Line], synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = Sources.parse([str(synthetic)])
    known = sources.sample
    monkeypatch.setattr(sources, "sample", lambda trace: known(type(trace).from_dict(lines[0], "")))
    source = write(tmp_path / "t.jsonl", [{**lines[0], "clip": name}, {**lines[0], "dataset": "../.."}, lines[1]])
    report = export(source, tmp_path / "out", sources, "sharegpt")
    assert report.written == 1 and len(report.set_aside) == 2
    assert all("rename" in what for what in report.set_aside)
    assert not (tmp_path / "outside").exists() and {p.name for p in tmp_path.iterdir()} == {"t.jsonl", "out"}


def test_what_killed_exports_left_is_removed_and_what_others_write_stays(
    lines: list[Line], synthetic: Path, tmp_path: Path
) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    source, out, sources = write(tmp_path / "t.jsonl", lines), tmp_path / "out", Sources.parse([str(synthetic)])
    left = [out / f".{n}.{dead.pid}.partial" for n in ("train.json", "train.parquet")]
    left += [
        out / "images" / "revos" / "a" / f".00000.jpg.{dead.pid}.partial",
        tmp_path / f".p.html.{dead.pid}.partial",
    ]
    alive = out / ".train.parquet.1.partial"
    for path in (*left, alive):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("torn")
    export(source, out, sources, "verl")
    write_gallery(source, tmp_path / "p.html", sources)
    assert not [p for p in left if p.exists()] and alive.exists()


def test_a_list_of_data_sets_that_cannot_be_joined_is_told_before_anything_is_replaced(
    lines: list[Line], synthetic: Path, tmp_path: Path
) -> None:
    source, out, sources = write(tmp_path / "t.jsonl", lines), tmp_path / "out", Sources.parse([str(synthetic)])
    out.mkdir()
    (out / "train.json").write_text("what was there")
    for broken, what in (("[1]", "must be a mapping"), ("{", "cannot be read as JSON")):
        (out / "dataset_info.json").write_text(broken)
        with pytest.raises(DataError, match=rf"dataset_info\.json: {what}"):
            export(source, out, sources, "sharegpt")
    assert (out / "train.json").read_text() == "what was there"


def test_pictures_have_the_size_that_the_trace_names(lines: list[Line], synthetic: Path, tmp_path: Path) -> None:
    from data_construction.traces.shown import ImageSizes

    mine = [{**lines[0], "shown": {"low": 4, "spatial": 8, "keyframe": 16}}, {**lines[2], "shown": {"side": 112}}]
    source, sources = write(tmp_path / "t.jsonl", mine), Sources.parse([str(synthetic)])
    names = pictures(export(source, tmp_path / "out", sources, "sharegpt", sizes=ImageSizes(factor=28)).files[0])
    sizes = [tuple(map(int, Path(n).stem.rpartition("_")[2].split("x"))) for n in names]
    boxes = len(lines[2]["record"]["frames"])
    assert set(sizes[-boxes:]) == {(112, 112)} and max(h * w for h, w in sizes[:-boxes]) <= 16 * 28 * 28
    with pytest.raises(RecipeError, match="was made with side 112"):
        export(source, tmp_path / "no", sources, "sharegpt", sizes=ImageSizes(side=560))
