"""An update under the profiler, on the tiny policy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.update_profile import covered


@pytest.mark.parametrize(
    ("spans", "length"), [([], 0.0), ([(0, 2), (1, 3), (5, 6)], 4.0), ([(5, 6), (0, 10), (2, 3)], 10.0)]
)
def test_overlapping_kernels_count_once(spans: list[tuple[float, float]], length: float) -> None:
    assert covered(spans) == length


def test_an_update_is_profiled(tmp_path: Path) -> None:
    """In a process of its own, which becomes a group of one."""
    command = [sys.executable, "-m", "benchmarks.update_profile", "--groups", "2", "--rollouts", "2", "--repeats", "1"]
    command += [
        "--work",
        str(tmp_path),
        "--json",
        str(tmp_path / "found.json"),
        "--trace",
        str(tmp_path / "trace.json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found["seconds"]) == {"first_update", "log_probs", "update", "optimiser"}
    assert all(s > 0 for s in found["seconds"].values()) and found["seconds"]["optimiser"] < found["seconds"]["update"]
    assert found["update_mfu"] > 0 and found["forward_tflop"] > 0 and found["tokens"] > 100
    assert any(row["name"] == "videoseg::attend_backward" for row in found["profile"]["most_time"])
    assert (tmp_path / "trace.json").stat().st_size > 1000
