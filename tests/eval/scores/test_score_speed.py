"""The benchmark of scoring runs both sides, compares their scores and writes what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import jf_speed, score_speed


def test_both_sides_find_the_same_and_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jf_speed, "SIZES", {"480p": (48, 64)})
    found = score_speed.measure(clips=2, expressions=2, frames=3, repeats=1, processes=1)
    assert set(found["seconds"]) == {"tool_1", "ours_1"} and found["frames"] == 12
    assert found["ratio_1_core"] == pytest.approx(found["seconds"]["tool_1"] / found["seconds"]["ours_1"])
    assert 0 < found["cpu_seconds"]["ours_1"] <= 60


def test_wrong_scores_are_not_timed(tmp_path: Path) -> None:
    (tmp_path / "ours1").mkdir()
    row = {"clip": "a", "expression_id": "0", "j": 50.0, "f": 50.0}
    (tmp_path / "ours1" / "scores.json").write_text(json.dumps({"expressions": [row]}))
    (tmp_path / "tool1.json").write_text(json.dumps({"a/0": [0.5, 0.5]}))
    score_speed.check_equal(tmp_path, 1)
    (tmp_path / "tool1.json").write_text(json.dumps({"a/0": [0.5, 0.6]}))
    with pytest.raises(SystemExit, match="differ"):
        score_speed.check_equal(tmp_path, 1)
