"""The oracles: what a reader is shown, what each answers, and the verdict on a world."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from data_construction.synthetic import make_synthetic
from eval.oracles import OracleReport, OracleSettings, measure_oracles
from eval.oracles.answers import ORACLES, Asked
from eval.oracles.clips import MarkedClip, Shown, marked_clips
from rollout.errors import DataError, RecipeError
from rollout.frames import load_frame_resized
from verl_ext.cli.main import app

SMALL = OracleSettings(low_res=4, spatial=6, keyframe=21, low_res_frames=8, spatial_frames=3, steps=150, batch=12)
"""Of frames of 128 pixels: a quarter, a half and all of it."""


@pytest.fixture(scope="module")
def badges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only: 16 + 8 clips of 48 frames at 128 pixels."""
    root = tmp_path_factory.mktemp("data") / "badges"
    make_synthetic(root, {"train": 16, "test": 8}, seed=4, frames=(48, 48), size=128, world="badges")
    return root


@pytest.mark.parametrize(("units", "side"), [(4, 32), (6, 64), (21, 128)])
def test_readers_see_what_the_processor_emits(badges: Path, units: int, side: int) -> None:
    clip = marked_clips(badges, "test", 1)[0].clip
    found = Shown(units).picture(clip, 7)
    frame = np.asarray(load_frame_resized(clip, 7, side, side), dtype=np.float32).transpose(2, 0, 1)
    assert found.shape == (3, side, side)
    assert np.allclose(found, frame / 127.5 - 1, atol=1e-5)


def test_a_world_that_wants_a_closer_look_is_proved(badges: Path) -> None:
    report = measure_oracles(badges, "test", SMALL)
    jf = {name: found["jf"] for name, found in report.oracles.items()}
    assert jf["ground_truth_keyframe"] > 85 and report.readers["keyframe"]["accuracy"] > 0.85
    assert report.pays and report.gap > 20
    assert jf["nothing"] == 0.0
    for name in ("random_object", "largest_object", "one_turn", "keyframe_at_low_res", "keyframe_at_spatial"):
        assert jf[name] < 60, name
    for budget in ("low_res", "spatial"):
        told = report.readers[budget]
        assert told["accuracy"] < told["chance"] + 4 * told["accuracy_se"] + 0.05, budget


def asked(clip: MarkedClip, evidence: dict[int, np.ndarray[Any, Any]]) -> Asked:
    """Readers that tell each frame's evidence; frames without any tell nothing."""
    marks = sorted(clip.marks)
    nothing = np.zeros((4, 4), dtype=np.float32)
    reader: Any = SimpleNamespace(
        marks=marks,
        log_probs=lambda clip, frames: np.sum([nothing, *(evidence.get(t, nothing) for t in frames)], axis=0),
    )
    readers = dict.fromkeys(("low_res", "spatial", "keyframe"), reader)
    return Asked(clip, clip.marks[2], readers, SMALL, np.random.default_rng(0))


def test_oracles_answer_from_the_frames_that_they_are_shown(badges: Path) -> None:
    clip = marked_clips(badges, "test", 1)[0]
    marks = sorted(clip.marks)
    true = np.array([[float(mark == m) for m in marks] for mark in clip.marks], dtype=np.float32)
    sees = asked(clip, dict.fromkeys(clip.legible, true))
    assert ORACLES["ground_truth_keyframe"](sees) == 2
    outside = next(t for t in range(48) if t not in clip.legible)
    assert {sees.at_keyframe(outside) for _ in range(40)} == {0, 1, 2, 3}, "nothing told: a coin"
    assert ORACLES["nothing"](sees) is None
    only_middle = asked(clip, {clip.middle: true})
    assert ORACLES["ground_truth_keyframe"](only_middle) == 2


def test_the_gap_is_to_the_next_best_answer() -> None:
    report = OracleReport("data", "test", 1, 4)
    report.oracles = {n: {"jf": v} for n, v in (("ground_truth_keyframe", 90.0), ("one_turn", 71.0), ("nothing", 0.0))}
    assert report.gap == pytest.approx(19.0) and not report.pays
    report.oracles["one_turn"]["jf"] = 70.0
    assert report.pays


def test_one_command_prints_and_writes_them(badges: Path, tmp_path: Path) -> None:
    out = tmp_path / "more" / "oracles.json"
    args = ["--budgets", "4", "6", "21", "--frames", "8", "3", "--steps", "1", "--train-clips", "2", "--json", str(out)]
    done = CliRunner().invoke(app, ["data", "oracles", str(badges), *args])
    assert done.exit_code == 1, "a reader of one step reads nothing, and the command says so"
    found = json.loads(out.read_text())
    assert not found["pays"] and set(found["oracles"]) == set(ORACLES)
    for name in ORACLES:
        assert name.replace("_", " ") in done.output
    assert "exploring is not what earns J&F here" in done.output


def test_bad_input_is_refused(badges: Path, synthetic_shapes: Path) -> None:
    with pytest.raises(DataError, match=r"clip train_00000 has no marks.*--world badges"):
        measure_oracles(synthetic_shapes, "test", SMALL)
    with pytest.raises(DataError, match="give another split than train"):
        measure_oracles(badges, "train", SMALL)
    with pytest.raises(RecipeError, match="keyframe = 3: the least is 4"):
        OracleSettings(keyframe=3)


@pytest.fixture(scope="module")
def synthetic_shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "shapes"
    make_synthetic(root, {"train": 1, "test": 1}, seed=2, frames=(12, 12), size=48)
    return root
