"""The cost of rewards of propagated masks, on the tiny SAM 2: what is measured is kept at once."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import propagation_rewards

SMALL = "--frames 5 --judged 3 --rollouts 2 --height 64 --width 96 --repeats 1 --step-seconds 10 --ways bounded exact"
"""Of a step with two prompts."""


def test_clips_left_out_of_exact_ways_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clip is timed in three, in each kind after a warm-up that goes the same way."""
    out, clips = tmp_path / "found.json", []

    def second_a_clip(_: object, by_clip: list[object], __: str) -> float:
        clips.append(len(by_clip))
        return float(len(by_clip))

    monkeypatch.setattr(propagation_rewards, "seconds", second_a_clip)
    some = [*SMALL.split(), "--prompts", "3", "--exact-prompts", "1", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", ["propagation_rewards", *some])
    propagation_rewards.main()
    assert clips == [3, 3, 1] * 4
    for found in json.loads(out.read_text())["kinds"].values():
        assert found["seconds"] == {"without": [3.0], "bounded": [3.0], "exact": [3.0]}


def test_figures_are_kept_after_each_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found.json"
    kept: list[dict[str, list[str]]] = []
    write = propagation_rewards.write_json

    def spy(path: Path, figures: dict[str, object]) -> None:
        write(path, figures)
        kinds = json.loads(path.read_text())["kinds"]
        kept.append({kind: list(found["seconds"]) for kind, found in kinds.items()})

    monkeypatch.setattr(propagation_rewards, "write_json", spy)
    monkeypatch.setattr(sys, "argv", ["propagation_rewards", *SMALL.split(), "--json", str(out)])
    propagation_rewards.main()
    ways = ["without", "bounded", "exact"]
    seg = [{"seg": ways[:n]} for n in (1, 2, 3)]
    assert kept == [*seg, *({"seg": ways, "boxes": ways[:n]} for n in (1, 2, 3))]
    said = capsys.readouterr()
    assert json.loads(said.out) == json.loads(out.read_text())
    assert sum("warm-up" in line for line in said.err.splitlines()) == 6
    for found in json.loads(out.read_text())["kinds"].values():
        assert all(s > 0 for times in found["seconds"].values() for s in times)
        added = found["seconds"]["exact"][0] - found["seconds"]["without"][0]
        assert found["added_seconds"]["exact"] == pytest.approx(added, abs=2e-4)
        assert found["share_of_step"]["exact"] == pytest.approx(found["added_seconds"]["exact"] / 10, abs=2e-4)
