"""Oracles of the world of like pairs: what each answer takes, what that is worth, and the teacher as its traces are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from data_construction.cot import TraceSettings
from data_construction.readers import read_vts_cot
from data_construction.synthetic import make_synthetic
from eval.oracles import OracleSettings, measure_oracles
from eval.oracles.twins import RIGHT_TWIN, TEACHER, TWIN_ORACLES, Pair, has_twins
from verl_ext.cli.main import app


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only: 8 + 6 clips of 12 frames at 64 pixels."""
    root, traces = tmp_path_factory.mktemp("data") / "twins", TraceSettings(turns=(1.0,), wrong_twin=0.6)
    make_synthetic(root, {"train": 8, "test": 6}, seed=4, frames=(12, 12), size=64, world="twins", traces=traces)
    return root


def test_which_of_two_like_objects_is_drawn_is_what_pays(twins: Path) -> None:
    report = measure_oracles(twins, "test")
    found = report.oracles
    assert (report.best, report.clips, report.expressions, report.readers) == (RIGHT_TWIN, 6, 24, {})
    assert found[RIGHT_TWIN] == {"jf": 100.0, "se": 0.0, "right": 1.0}
    assert found["nothing"]["jf"] == 0.0 and found["other_twin"]["jf"] < 1
    # a pair of equal discs: IoU a half, precision a half and recall one on the contour
    assert found["both_twins"]["jf"] == pytest.approx(50 * (1 / 2 + 2 / 3), abs=1.5)
    assert 20 < found["either_twin"]["jf"] < 80 and found["all_objects"]["jf"] < found["both_twins"]["jf"]
    assert report.gap == pytest.approx(100 - max(found[n]["jf"] for n in TWIN_ORACLES if n != RIGHT_TWIN))
    assert report.pays


def test_the_teacher_is_measured_on_the_masks_of_its_traces(twins: Path) -> None:
    right = np.mean([not r.mask_anno_id for r in read_vts_cot(twins / "vts_cot_train.json")])
    teacher = measure_oracles(twins, "test").oracles[TEACHER]
    assert teacher["right"] == pytest.approx(right, abs=1e-4) and teacher["jf"] == pytest.approx(100 * right, abs=1)
    few = measure_oracles(twins, "test", OracleSettings(train_clips=1)).oracles[TEACHER]
    assert few["right"] in (0.5, 0.75, 1.0)


def test_what_each_answer_takes() -> None:
    pair = Pair(2, 3, 4, np.random.default_rng(0))
    taken = {name: {answer(pair) for _ in range(60)} for name, answer in TWIN_ORACLES.items()}
    assert taken == {
        RIGHT_TWIN: {(2,)},
        "both_twins": {(2, 3)},
        "either_twin": {(2,), (3,)},
        "first_twin": {(2,)},
        "other_twin": {(3,)},
        "random_object": {(0,), (1,), (2,), (3,)},
        "all_objects": {(0, 1, 2, 3)},
        "nothing": {()},
    }
    assert has_twins({"a": {"1": "red", "2": "red"}}) and not has_twins({"a": {"1": "red", "2": "blue"}})
    assert not has_twins({})


def test_one_command_prints_and_writes_them(twins: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["data", "oracles", str(twins), "--json", str(tmp_path / "oracles.json")])
    assert done.exit_code == 0 and "which of two like objects is drawn pays here" in done.output
    assert "marks told" not in done.output
    found = json.loads((tmp_path / "oracles.json").read_text())
    assert found["pays"] and set(found["oracles"]) == {*TWIN_ORACLES, TEACHER}
