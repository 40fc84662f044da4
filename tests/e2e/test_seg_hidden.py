"""States of ``[SEG]`` in the middle of a dialogue: what vLLM's worker keeps is what the policy's own forward makes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from eval.inference.worker import cpu_environment
from rollout.types import Sample
from tests.e2e.seg_hidden_engine import SEQUENCES, SLOTS_A_SEQUENCE
from tests.verl_ext.conftest import samples  # noqa: F401 - a fixture

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
DIALOGUES = 3


@pytest.fixture(scope="module")
def found(tiny_policy: Path, samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:  # noqa: F811
    rows = tmp_path_factory.mktemp("seg_hidden") / "samples.json"
    rows.write_text(json.dumps([sample.to_dict() for sample in samples[:DIALOGUES]]))
    env = {**os.environ, **cpu_environment(), "VLLM_LOGGING_LEVEL": "ERROR", "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-m", "tests.e2e.seg_hidden_engine", str(tiny_policy), str(rows)]
    run = subprocess.run(command, capture_output=True, text=True, env=env, timeout=500, cwd=Path(__file__).parents[2])
    assert run.returncode == 0, run.stderr[-4000:]
    line = next(line for line in run.stdout.splitlines() if line.startswith("FOUND"))
    out: dict[str, Any] = json.loads(line.removeprefix("FOUND"))
    print(out)
    return out


def test_the_kept_states_are_those_of_the_policys_own_forward(found: dict[str, Any]) -> None:
    """Of several dialogues at once, in their second turn too; no other token's state is as near."""
    assert len(found["differences"]) == DIALOGUES
    for worst, nearest_other in found["differences"]:
        assert worst < 1e-4 < 1e-2 < nearest_other
    assert all(count > 1 for tokens in found["tokens"] for count in tokens), "first and newest are two"


def test_it_holds_under_prefix_caching_chunks_and_preemption(found: dict[str, Any]) -> None:
    """Prompts longer than a step's tokens, a cache too small for all, a request beside them that asked for nothing."""
    assert all(second > 0 for _, second in found["cached"]), "the second turn took the first's keys from the cache"
    assert found["preemptions"] > 0 and found["bystander"]


def test_what_nobody_needs_any_more_is_gone(found: dict[str, Any]) -> None:
    assert not any(found["taken_once"]), "a fetch takes them out"
    assert found["aborted"] == [True, False], "of a reply that was on its way"
    assert found["left"] == [False] + [True] * (SLOTS_A_SEQUENCE * SEQUENCES), "bounded: the oldest made room"
    assert found["after_new_weights"] is False
