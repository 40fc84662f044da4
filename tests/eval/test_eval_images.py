"""``videoseg eval --images``: spoilt pictures in any benchmark, recorded, kept apart, and a row of the report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from data_construction.synthetic import make_synthetic
from tests.eval import eval_cli
from tests.eval.eval_cli import Started, make_root, scripted_starts
from tests.eval.report.test_report_evaluation import words
from verl_ext.cli.main import app


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only."""
    return make_root(tmp_path_factory.mktemp("made"))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[Started]:
    yield from scripted_starts(monkeypatch)


@pytest.fixture
def evaluate(made: Path, tmp_path: Path) -> Callable[..., Result]:
    return partial(eval_cli.evaluate, made / "policy", tmp_path / "out")


def test_spoilt_results_lie_in_the_evaluations_folder_and_are_a_row_of_its_report(
    evaluate: Callable[..., Result], started: Started, made: Path, tmp_path: Path
) -> None:
    asked = ("--benchmark", "revos", "--root", made)
    for more in ((), ("--images", "blank"), ("--images", "other-clip")):
        done = evaluate(*asked, *more)
        assert done.exit_code == 0, done.output + str(done.exception)
    folder = tmp_path / "out" / "revos"
    own, blank, other = (
        json.loads((folder / f / "run.json").read_text()) for f in ("", "images_blank", "images_other_clip")
    )
    assert "images" not in own["protocol"] and blank["protocol"]["images"] == "blank"
    assert other["protocol"]["images"] == "other-clip"
    assert json.loads((folder / "images_blank" / "scores.json").read_text())["info"]["protocol"]["images"] == "blank"
    report = CliRunner().invoke(app, ["report", str(folder)])
    assert report.exit_code == 0, report.output
    text = words(folder / "report.html")
    assert "does it look? pictures shown" in text
    for way in ("blank every picture is plain grey", "other-clip the frames of another clip"):
        assert way in text
    assert "+0.0" in text, "a policy that says the same whatever it sees gains nothing from its pictures"


def test_spoilt_pictures_are_not_mixed_with_others(
    evaluate: Callable[..., Result], started: Started, made: Path, tmp_path: Path
) -> None:
    asked = ("--benchmark", made / "mine.yaml", "--root", made)
    assert evaluate(*asked, "--images", "blank").exit_code == 0
    folder = tmp_path / "out" / "mine"
    (folder / "images_blank").rename(folder / "images_frozen")
    refused = evaluate(*asked, "--images", "frozen")
    assert refused.exit_code == 2 and "images = 'blank'" in " ".join(refused.stderr.split())


def test_other_clip_with_a_single_clip_is_refused_before_anything_starts(
    evaluate: Callable[..., Result], started: Started, tmp_path: Path
) -> None:
    make_synthetic(tmp_path / "one", {"train": 1, "test": 1}, seed=3, frames=(12, 12), size=48)
    refused = evaluate("--dataset", "revos", "--split", "test", "--root", tmp_path / "one", "--images", "other-clip")
    assert refused.exit_code == 2 and not started
    said = " ".join(refused.stderr.split())
    assert "--images other-clip: there is one clip only (test_00000)" in said and "--images blank" in said
    assert not (tmp_path / "out").exists()


def test_a_way_that_there_is_not_is_refused(evaluate: Callable[..., Result], started: Started, made: Path) -> None:
    refused = evaluate("--benchmark", "revos", "--root", made, "--images", "upside-down")
    assert refused.exit_code == 2 and "other-clip" in refused.stderr and not started
