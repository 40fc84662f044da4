"""``videoseg eval`` without engines: data, a policy folder and a scripted worker behind the command."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import eval.inference.run
from data_construction.synthetic import make_synthetic
from tests.eval.inference.test_run_stream import cluster_of
from tests.eval.scripted import ScriptedWorker, box_reply
from verl_ext.cli.main import app

SMALL = ["--device", "cpu", "--set", "rollout.box_side=112", "--set", "policy.prompt_set=brief"]
Started = list[Any]


def make_root(root: Path) -> Path:
    """Two splits in ReVOS' layout, and benchmarks on them; a box policy that is only its config."""
    make_synthetic(root / "ReVOS", {"train": 1, "valid": 2, "test": 1}, seed=3, frames=(12, 12), size=48)
    (root / "policy").mkdir()
    (root / "policy" / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    (root / "mine.yaml").write_text("dataset: revos\nsplit: test\nscorer: jf\n")
    (root / "hidden.yaml").write_text("dataset: revos\nsplit: valid\nsubmission: mevis\nserver: the server\n")
    return root


def scripted_starts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Started]:
    """Every start of the engines: (settings, scripted worker)."""
    starts: Started = []

    def start(folder: Path, settings: Any, device: str, gpus: int) -> Any:
        worker = ScriptedWorker(lambda sample: box_reply(0, [20.0, 20.0, 60.0, 60.0]))
        cluster, _, worker.pool = cluster_of(worker)
        monkeypatch.setattr(cluster, "close", lambda: None)
        starts.append((settings, worker))
        return cluster

    monkeypatch.setattr(eval.inference.run, "start_cluster", start)
    yield starts


def evaluate(policy: Path, out: Path, *args: Any, settings: Sequence[str] = SMALL) -> Result:
    given = ["eval", "--model", policy, "--out", out, *settings, *args]
    return CliRunner().invoke(app, [str(a) for a in given])
