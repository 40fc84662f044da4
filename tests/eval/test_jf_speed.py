"""The benchmark runs, checks its own scores and writes what it measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import jf_speed


def test_benchmark_writes_its_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(jf_speed, "SIZES", {"tiny": (90, 120)})
    out = tmp_path / "figures" / "jf.json"
    monkeypatch.setattr(sys, "argv", ["jf_speed.py", "--frames", "3", "--repeats", "1", "--json", str(out)])
    jf_speed.main()
    found = json.loads(out.read_text())
    assert {"date", "device", "versions"} <= set(found) and found["threads"] == 1
    row = found["rows"][0]
    assert row["ratio_masks"] == pytest.approx(row["plain_masks_ms"] / row["fast_masks_ms"])


def test_benchmark_refuses_to_time_wrong_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jf_speed, "SIZES", {"tiny": (90, 120)})
    monkeypatch.setattr(jf_speed, "plain_f", lambda pred, gt: 0.5)
    with pytest.raises(SystemExit, match="differ"):
        jf_speed.measure("tiny", frames=2, repeats=1)
