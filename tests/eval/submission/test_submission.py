"""Submissions on generated folders in the benchmarks' own layouts: their files, their bytes, what is refused."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from typer.testing import CliRunner

from data_construction.layouts import write_layout
from eval.benchmarks import load_benchmark
from eval.packagers import packager_names
from eval.results.results_file import ResultsFile
from eval.submission import check_submission, write_submission
from rollout.errors import DataError
from rollout.types import StopReason
from tests.eval.clips import disk
from tests.eval.submissions import Mevis, answer, results_of, rezip
from verl_ext.cli.main import app

LAYOUTS = {
    "mevis_v2_valid": "mevis_v2",
    "mevis_valid": "mevis",
    "mevis_test": "mevis",
    "ref_ytvos": "ref_ytvos",
    "long_rvos_test": "long_rvos",
}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("layouts")
    for name in {*LAYOUTS.values(), "vicas"}:
        write_layout(name, folder / name, clips=2)
    return {name: folder / name for name in {*LAYOUTS.values(), "vicas"}}


@pytest.fixture
def mevis(roots: dict[str, Path], tmp_path: Path) -> Mevis:
    return Mevis(roots["mevis"], tmp_path)


@pytest.mark.parametrize(("name", "layout"), LAYOUTS.items())
def test_png_submissions(roots: dict[str, Path], tmp_path: Path, name: str, layout: str) -> None:
    benchmark, root = load_benchmark(name), roots[layout]
    samples = list(benchmark.samples(root))
    results = results_of(list(reversed(samples)), tmp_path / "results.jsonl")
    packed = write_submission(results, benchmark, root, tmp_path / "sub.zip")
    prefix = "Annotations/" if name == "ref_ytvos" else ""
    wanted = [f"{prefix}{s.clip.name}/{s.expression.id}/{Path(f).stem}.png" for s in samples for f in s.clip.frames]
    with zipfile.ZipFile(tmp_path / "sub.zip") as archive:
        assert archive.namelist() == wanted and packed.files == len(wanted)
        sample = samples[-1]
        record = answer(sample)
        for t, frame in enumerate(sample.clip.frames):
            path = f"{prefix}{sample.clip.name}/{sample.expression.id}/{Path(frame).stem}.png"
            image = Image.open(io.BytesIO(archive.read(path)))
            assert (image.format, image.mode, image.size) == ("PNG", "L", (sample.clip.width, sample.clip.height))
            expected = np.zeros(image.size[::-1], bool)
            if t == 0:
                expected[3:8, 0] = True  # runs go down the columns
            elif record.prediction[t] is not None:
                expected = disk(5 + 2 * t, sample.clip.height / 2, 4 + len(sample.expression.id), *image.size[::-1])
            assert (np.asarray(image) == 255 * expected).all()
    assert check_submission(tmp_path / "sub.zip", benchmark, root) == []
    assert packed.expressions == len(samples) and packed.filled == []


def test_ref_ytvos_leaves_the_test_clips_out(roots: dict[str, Path]) -> None:
    meta = json.loads((roots["ref_ytvos"] / "meta_expressions/valid/meta_expressions.json").read_text())["videos"]
    test = json.loads((roots["ref_ytvos"] / "meta_expressions/test/meta_expressions.json").read_text())["videos"]
    clips = {s.clip.name for s in load_benchmark("ref_ytvos").samples(roots["ref_ytvos"])}
    assert clips == set(meta) - set(test) and clips < set(meta)


def test_vicas_files_are_those_of_its_tool(roots: dict[str, Path], tmp_path: Path) -> None:
    benchmark = load_benchmark("vicas_test")
    samples = list(benchmark.samples(roots["vicas"]))
    results = results_of(samples, tmp_path / "results.jsonl")
    write_submission(results, benchmark, roots["vicas"], tmp_path / "predictions")
    for name in {s.clip.name for s in samples}:
        raw = json.loads((tmp_path / "predictions" / f"{name}.json").read_text())
        truth = json.loads((roots["vicas"] / f"annotations/v1.0/{name}.json").read_text())
        assert raw["video_id"] == int(name) and len(raw["pred_lgvis_masks"]) == len(truth["object_referrals"])
        for frames in raw["pred_lgvis_masks"]:
            assert [f["filename"] for f in frames] == [s["filename"] for s in truth["segmentations"]]
            areas = [int(coco_mask.area({**f["mask_rles"][0]})) for f in frames]
            assert areas[0] == 5 and areas[1] == 0 and min(areas[2:]) > 5
    assert check_submission(tmp_path / "predictions", benchmark, roots["vicas"]) == []


def test_vicas_objects_are_handed_in_one_by_one(roots: dict[str, Path], tmp_path: Path) -> None:
    """And the files, read as the tool reads them, get the mAP that our own score gives."""
    benchmark = load_benchmark("vicas_val")
    samples = list(benchmark.samples(roots["vicas"]))
    with ResultsFile(tmp_path / "results.jsonl") as file:
        for sample in samples:
            assert sample.masklets is not None
            file.append(replace(answer(sample), objects=sample.masklets.rles))
    write_submission(tmp_path / "results.jsonl", benchmark, roots["vicas"], tmp_path / "out")
    assert check_submission(tmp_path / "out", benchmark, roots["vicas"]) == []
    for sample in samples:
        assert sample.masklets is not None
        prompts = json.loads((tmp_path / "out" / f"{sample.clip.name}.json").read_text())["pred_lgvis_masks"]
        for t, frame in enumerate(prompts[int(sample.expression.id)]):
            found = [int(coco_mask.area(rle)) for rle in frame["mask_rles"]]
            right = [0 if track[t] is None else int(coco_mask.area(track[t])) for track in sample.masklets.rles]
            assert found == right
    several = [s for s in samples if len(s.expression.anno_ids) > 1]
    assert several, "some prompt means several objects"


def test_vicas_takes_ten_tracks_a_prompt_and_none_where_nothing_was_predicted(
    roots: dict[str, Path], tmp_path: Path
) -> None:
    benchmark = load_benchmark("vicas_val")
    many, none, *others = list(benchmark.samples(roots["vicas"]))
    records = [answer(s) for s in others]
    records += [replace(answer(many), objects=(answer(many).prediction,) * 12), replace(answer(none), objects=())]
    with ResultsFile(tmp_path / "results.jsonl") as file:
        for record in records:
            file.append(record)
    write_submission(tmp_path / "results.jsonl", benchmark, roots["vicas"], tmp_path / "out")
    for sample, tracks in ((many, 10), (none, 0), (others[0], 1)):
        prompts = json.loads((tmp_path / "out" / f"{sample.clip.name}.json").read_text())["pred_lgvis_masks"]
        assert {len(frame["mask_rles"]) for frame in prompts[int(sample.expression.id)]} == {tracks}
    file_path = tmp_path / "out" / f"{many.clip.name}.json"
    content = json.loads(file_path.read_text())
    content["pred_lgvis_masks"][int(many.expression.id)][0]["mask_rles"].pop()
    file_path.write_text(json.dumps(content))
    (found,) = check_submission(tmp_path / "out", benchmark, roots["vicas"])
    assert "has [9, 10] tracks; wants the same number in each frame" in found


def test_one_odd_clip_does_not_stop_the_others(roots: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "MeViS"
    shutil.copytree(roots["mevis"], root)
    mevis = Mevis(root, tmp_path)
    meta = root / "valid/meta_expressions.json"
    content = json.loads(meta.read_text())
    lost = next(iter(content["videos"]))
    content["videos"][lost]["frames"] = []
    content["videos"]["silent"] = {"frames": ["00000"], "expressions": {}}
    meta.write_text(json.dumps(content))
    command = ["submit", str(mevis.folder), "--benchmark", "mevis_valid", "--root", str(root)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 3 and f"1 left out, as their annotations cannot be read: {lost}: " in done.output
    with zipfile.ZipFile(mevis.folder / "mevis_valid.zip") as archive:
        assert {n.split("/")[0] for n in archive.namelist()} == set(content["videos"]) - {lost, "silent"}
    done = CliRunner().invoke(app, [*command, "--overwrite", "--strict"])
    assert done.exit_code == 2 and lost in done.output


def test_same_results_same_bytes(mevis: Mevis) -> None:
    mevis.write()
    first = mevis.out.read_bytes()
    mevis.results.write_bytes(b"".join(reversed(mevis.results.read_bytes().splitlines(True))))
    with pytest.raises(DataError, match=r"sub\.zip: already exists.*--overwrite"):
        mevis.write()
    mevis.write(overwrite=True)
    assert mevis.out.read_bytes() == first
    assert sorted(p.name for p in mevis.folder.iterdir()) == ["results.jsonl", "sub.zip"]


def test_what_a_killed_packing_left_is_removed(mevis: Mevis) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left, others, alive = (
        mevis.folder / f".{name}.{host}-{pid}.partial"
        for name, host, pid in (
            ("sub.zip", socket.gethostname(), gone.pid),
            ("sub.zip", "elsewhere", gone.pid),
            ("sub.zip", socket.gethostname(), os.getppid()),
        )
    )
    for path in (left, others, alive):
        path.write_bytes(b"half a zip")
    mevis.write()
    assert not left.exists() and others.exists() and alive.exists()


def test_missing_are_listed_and_refused_or_filled(mevis: Mevis) -> None:
    lost, refused = mevis.samples[0], mevis.samples[-1]
    mevis.results.unlink()
    results_of(mevis.samples[1:-1], mevis.results)
    with ResultsFile(mevis.results) as file:
        file.append(answer(refused, StopReason.REFUSED_CLIP))
    with pytest.raises(DataError, match=f"no prediction for 2 .*{lost.id}, {refused.id}; .*--fill-missing"):
        mevis.write()
    assert not mevis.out.exists()
    packed = mevis.write(fill_missing=True)
    assert packed.filled == [lost.id, refused.id]
    with zipfile.ZipFile(mevis.out) as archive:
        for sample in (lost, refused):
            names = [n for n in archive.namelist() if n.startswith(f"{sample.id}/")]
            assert len(names) == sample.clip.num_frames
            assert not any(np.asarray(Image.open(io.BytesIO(archive.read(n)))).any() for n in names)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"expression_id": "99"}, r"line \d+: .*/99 is not in benchmark mevis_valid"),
        ({"clip": "elsewhere"}, "elsewhere/0 is not in benchmark"),
        ({"clip": "../../etc"}, "could point outside the output folder"),
        ({"clip": "/etc"}, "could point outside the output folder"),
        ({"text": "another question"}, "another question"),
        ({"height": 7}, "on .* frames of 7x"),
        ({"num_frames": 1, "prediction": [None]}, "predicted on 1 frames"),
        ({"prediction": 2}, "frame 2: .*do not decode"),
    ],
)
def test_results_that_do_not_fit_are_refused(mevis: Mevis, change: dict[str, object], says: str) -> None:
    lines = mevis.results.read_text().splitlines()
    record = json.loads(lines[0])
    if change == {"prediction": 2}:
        record["prediction"][2]["counts"] = "\x01"
    else:
        record |= change
    mevis.results.write_text("\n".join([json.dumps(record), *lines[1:]]) + "\n")
    with pytest.raises(DataError, match=says):
        mevis.write(fill_missing=True)
    assert [p.name for p in mevis.folder.iterdir()] == ["results.jsonl"]


def test_annotation_names_cannot_leave_the_folder(mevis: Mevis, tmp_path: Path) -> None:
    """A clip of the data set itself may be called ../../x."""
    root = tmp_path / "root"
    (root / "valid").mkdir(parents=True)
    video = {"frames": ["00000"], "expressions": {"0": {"exp": "a"}}, "height": 8, "width": 8}
    (root / "valid/meta_expressions.json").write_text(json.dumps({"videos": {"../../x": video}}))
    with pytest.raises(DataError, match=r"\.\./\.\./x"):
        write_submission(mevis.results, mevis.benchmark, root, tmp_path / "o.zip", fill_missing=True)
    assert not (tmp_path / "o.zip").exists()


def test_a_failing_write_leaves_nothing(mevis: Mevis, monkeypatch: pytest.MonkeyPatch) -> None:
    from eval.packagers import png_folders

    monkeypatch.setattr(png_folders, "mask_png", lambda rle, height, width: b"torn")
    with pytest.raises(DataError, match=r"not written, it did not read back .* cannot be read as a PNG"):
        mevis.write()
    assert [p.name for p in mevis.folder.iterdir()] == ["results.jsonl"]


def test_memory_does_not_grow_with_the_files(mevis: Mevis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of 256 KiB each: what is in memory at a time is a chunk of them, not all."""
    from eval.packagers import png_folders
    from eval.submission import check, write

    mevis.write()  # loads what is loaded once
    monkeypatch.setattr(png_folders, "mask_png", lambda rle, height, width: bytes(1 << 18))
    monkeypatch.setattr(png_folders, "png_problems", lambda content, height, width: ())
    monkeypatch.setattr(write, "CHUNK", 8)
    monkeypatch.setattr(check, "CHUNK", 8)
    tracemalloc.start()
    packed = mevis.write(overwrite=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert packed.bytes > 8e6 and peak < packed.bytes / 3


def test_command(mevis: Mevis) -> None:
    common = ["--benchmark", "mevis_valid", "--root", str(mevis.root)]
    done = CliRunner().invoke(app, ["submit", str(mevis.folder), *common])
    assert done.exit_code == 0, done.output
    assert f"{mevis.folder / 'mevis_valid.zip'}: " in done.output and "for the MeViS validation server" in done.output
    checked = ["submit", str(mevis.folder / "mevis_valid.zip"), *common, "--check"]
    assert CliRunner().invoke(app, checked).output.strip().endswith("sound")
    rezip(mevis.folder / "mevis_valid.zip", {"notes.txt": b"x"})
    done = CliRunner().invoke(app, checked)
    assert done.exit_code == 1 and "notes.txt: is not a file of benchmark mevis_valid" in done.output
    mevis.results.write_bytes(b"".join(mevis.results.read_bytes().splitlines(True)[1:]))
    done = CliRunner().invoke(app, ["submit", str(mevis.results), *common, "--out", str(mevis.out)])
    assert (
        done.exit_code == 2
        and f"no prediction for 1 expressions of benchmark mevis_valid: {mevis.samples[0].id}"
        in (" ".join(done.output.split()))
    )
    assert not mevis.out.exists()
    done = CliRunner().invoke(app, ["submit", str(mevis.results), *common, "--out", str(mevis.out), "--fill-missing"])
    assert done.exit_code == 0 and "1 expressions have empty masks" in done.output


@pytest.mark.parametrize("option", [["--out", "x.zip"], ["--fill-missing"], ["--overwrite"]])
def test_what_checking_would_not_do_is_refused(mevis: Mevis, option: list[str]) -> None:
    mevis.write()
    common = ["--benchmark", "mevis_valid", "--root", str(mevis.root), "--check"]
    done = CliRunner().invoke(app, ["submit", str(mevis.out), *common, *option])
    assert done.exit_code == 2 and f"{option[0]}: --check only looks" in " ".join(done.output.split())


def test_only_benchmarks_with_a_packager(mevis: Mevis, roots: dict[str, Path]) -> None:
    assert {"mevis", "ref_ytvos", "vicas", "long_rvos"} <= set(packager_names())
    with pytest.raises(DataError, match="mevis_u has no server"):
        write_submission(mevis.results, load_benchmark("mevis_u"), roots["mevis"], mevis.out)
    with pytest.raises(DataError, match="no packager called 'x'; there are long_rvos"):
        write_submission(mevis.results, replace(mevis.benchmark, submission="x"), mevis.root, mevis.out)
