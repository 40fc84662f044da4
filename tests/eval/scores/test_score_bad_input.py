"""What ``videoseg score`` refuses: by name, with exit code 2, and without a file outside the output folder."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from data_construction.layouts import write_layout
from data_construction.synthetic import make_synthetic
from eval.benchmarks import load_benchmark
from tests.eval.answers import write_results
from verl_ext.cli.main import app

Lines = list[dict[str, Any]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "data"
    make_synthetic(folder, {"train": 1, "valid": 2}, seed=5, frames=(12, 12), size=48)
    return folder


@pytest.fixture(scope="module")
def good(root: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    samples = load_benchmark("revos").samples(root)
    return write_results(tmp_path_factory.mktemp("run"), samples).read_text()


def score(root: Path, results: Path, *options: str) -> tuple[int, str]:
    """Exit code and all that was printed, on one line."""
    out = CliRunner().invoke(app, ["score", str(results), "--benchmark", "revos", "--root", str(root), *options])
    return out.exit_code, " ".join(out.output.split())


def seen(line: dict[str, Any]) -> int:
    """The first frame with a mask."""
    return next(t for t, rle in enumerate(line["prediction"]) if rle)


def set_mask(line: dict[str, Any], **change: Any) -> None:
    line["prediction"][seen(line)] |= change


def shorten(line: dict[str, Any]) -> None:
    line["num_frames"] -= 1
    line["prediction"].pop()


BAD: dict[str, tuple[Callable[[Lines], Any], str]] = {
    "another benchmark's clip": (lambda d: d[3].update(clip="elsewhere"), "elsewhere/3 is of no clip of benchmark"),
    "another benchmark's expression": (lambda d: d[3].update(expression_id="99"), "/99 is no expression of benchmark"),
    "another text": (lambda d: d[2].update(text="the other one"), "predicted for 'the other one'"),
    "duplicate": (lambda d: d.append(d[1]), "is already on line 2"),
    "other frame size": (lambda d: d[0].update(height=64), "predicted on 12 frames of 64x48"),
    "other frame count": (lambda d: shorten(d[0]), "predicted on 11 frames"),
    "fewer masks than frames": (lambda d: d[0]["prediction"].pop(), "12 frames but 11 masks"),
    "mask of another size": (lambda d: set_mask(d[0], size=[48, 47]), "the RLE is 48x47"),
    "RLE that is no string": (lambda d: set_mask(d[0], counts={}), "RLE 'counts' must be"),
    "RLE that does not decode": (lambda d: set_mask(d[0], counts="\u00e9~~"), "RLE counts do not decode"),
    "RLE too short": (lambda d: set_mask(d[0], counts="1"), "do not fill"),
    "path trick in a clip": (lambda d: d[0].update(clip="../../x"), "'../../x' is not a plain name"),
    "path trick in an expression": (lambda d: d[0].update(expression_id="../x"), "'../x' is not a plain name"),
    "absolute path": (lambda d: d[0].update(clip="/etc/passwd"), "'/etc/passwd' is not a plain name"),
    "not a record": (lambda d: d[0].pop("stop"), "line 1: not a ResultRecord"),
    "text that is none": (lambda d: d[0].update(text=None), "line 1: 'text' must be str, found None"),
    "interval of words": (
        lambda d: d[0]["turns"][0].update(grounding={"start": "a", "end": 3, "keyframe": 1}),
        "line 1, turn 0: 'grounding' must be an object of int",
    ),
    "keyframe between frames": (lambda d: d[0]["turns"][0].update(keyframe=0.5), "turn 0: 'keyframe' must be int"),
    "mask that is a number": (lambda d: d[0]["prediction"].__setitem__(0, 7), "'prediction' must be a list of RLE"),
    "mask without counts": (lambda d: d[0]["prediction"][seen(d[0])].pop("counts"), "RLE 'counts' must be"),
    "RLE beyond 64 bits": (lambda d: set_mask(d[0], counts=[2**70]), "RLE 'counts' must be"),
    "unknown field": (lambda d: d[0].update(shell="rm"), "unknown ['shell']"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_results_are_refused_by_name(what: str, root: Path, good: str, tmp_path: Path) -> None:
    lines: Lines = [json.loads(line) for line in good.splitlines()]
    change, says = BAD[what]
    change(lines)
    results = tmp_path / "results.jsonl"
    results.write_text("".join(json.dumps(line) + "\n" for line in lines))
    before = sorted(tmp_path.rglob("*"))
    code, output = score(root, results, "--out", str(tmp_path / "out"), "--workers", "1")
    assert code == 2 and says in output, output
    assert sorted(tmp_path.rglob("*")) == before


def test_bad_lines_are_refused_by_number(root: Path, good: str, tmp_path: Path) -> None:
    lines = good.splitlines(keepends=True)
    for text, says in (
        (lines[0] + "{]\n" + lines[1], "line 2: not JSON"),
        (lines[0] + lines[1][:-40] + "\n", "line 2: "),
        (lines[0] + "[" * 100_000 + "\n", "line 2: not JSON"),
        (lines[0] + "[1]\n", "line 2: expected an object"),
    ):
        (tmp_path / "r.jsonl").write_text(text)
        code, output = score(root, tmp_path / "r.jsonl")
        assert code == 2 and says in output, output


def test_a_second_clip_hidden_in_a_line_is_found(root: Path, good: str, tmp_path: Path) -> None:
    """JSON allows a key twice; the head of the line then says another clip than the parsed record."""
    lines = good.splitlines(keepends=True)
    other = json.loads(lines[1])["expression_id"]
    trick = lines[0].rstrip()[:-1] + f',"expression_id":{json.dumps(other)}}}\n'
    (tmp_path / "r.jsonl").write_text(trick)
    code, output = score(root, tmp_path / "r.jsonl")
    assert code == 2 and "line 1: holds" in output, output


def test_a_torn_last_line_is_a_missing_prediction(root: Path, good: str, tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text(good[:-30])
    code, output = score(root, tmp_path / "r.jsonl")
    assert code == 0 and "1 missing, each counts 0" in output


def test_no_results_no_benchmark(root: Path, tmp_path: Path) -> None:
    assert "no results file there" in score(root, tmp_path / "none.jsonl")[1]
    runner, results = CliRunner(), str(tmp_path / "none.jsonl")
    for options, says in (
        (["--benchmark", "revo"], "no benchmark called 'revo'"),
        ([], "give --benchmark"),
        (["--benchmark", "revos", "--dataset", "revos"], "not both"),
        (["--dataset", "revos", "--exact"], "--exact and --workers belong to --benchmark"),
        (["--benchmark", "mevis_valid"], "no public ground truth"),
    ):
        out = runner.invoke(app, ["score", results, "--root", str(root), *options])
        assert out.exit_code == 2 and says in " ".join(out.output.split()), out.output


def test_links_in_the_output_folder_are_not_followed(root: Path, good: str, tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text(good)
    (tmp_path / "precious").write_text("keep me")
    out = tmp_path / "out"
    out.mkdir()
    for name in ("scores.json", "scores.csv", ".scores.json", ".scores.json.partial"):
        os.symlink(tmp_path / "precious", out / name)
    assert score(root, tmp_path / "r.jsonl", "--out", str(out))[0] == 0
    assert (tmp_path / "precious").read_text() == "keep me"
    assert not (out / "scores.json").is_symlink() and not (out / "scores.csv").is_symlink()


def test_data_without_foreground_masks_are_refused(root: Path, good: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for file in root.iterdir():
        if file.name != "mask_dict_foreground.json":
            os.symlink(file, tmp_path / "data" / file.name)
    (tmp_path / "r.jsonl").write_text(good)
    code, output = score(tmp_path / "data", tmp_path / "r.jsonl")
    assert code == 2 and "foreground" in output


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "davis"
    write_layout("ref_davis17", root, seed=1, clips=1)
    annotations = root / "valid" / "Annotations"
    annotations.rename(root / "valid" / "elsewhere")  # then the layout with Sa2VA's pickle is read
    (root / "valid" / "mask_dict.pkl").write_bytes(pickle.dumps(Evil(tmp_path / "mark")))
    (tmp_path / "r.jsonl").write_text("")
    command = ["score", str(tmp_path / "r.jsonl"), "--benchmark", "ref_davis17", "--root", str(root)]
    out = CliRunner().invoke(app, command)
    assert out.exit_code == 2 and "mask_dict.pkl" in out.output
    assert not (tmp_path / "mark").exists()
