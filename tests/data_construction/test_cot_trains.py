"""The cold start's own data set class builds its rows from what ``cot vts`` wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_construction.cot.vts_plan import VTSSettings
from data_construction.generate import run_job
from data_construction.readers import read_vts_cot
from rollout.environments.keyframe_exploration import ExplorationSettings
from tests.data_construction.cot_jobs import vts_job
from tests.data_construction.fault_server import FaultServer, running
from verl_ext.recipe import Recipe
from verl_ext.recipe.rollout_settings import environment_of

torch = pytest.importorskip("torch")


def short(_: dict[str, Any]) -> str:
    return json.dumps(dict.fromkeys(("temporal", "spatial", "language", "action"), "it is seen"))


def test_rows_of_the_cold_start_hold_the_written_thinking(
    tiny_recipe: Callable[..., Recipe],
    tiny_data: Path,
    tiny_policy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers import AutoProcessor

    from verl_ext.recipe import save_resolved
    from verl_ext.recipe.context import RECIPE_ENV
    from verl_ext.supervised.dataset import SFTDataset

    name, values = environment_of(tiny_recipe("sft"))
    assert name == "keyframe_exploration"
    settings = VTSSettings(ExplorationSettings.from_dict(values), turns=(0.3, 0.7), max_chars=40)
    with running(FaultServer(answer=short)) as server:
        summary, _ = run_job(vts_job(tiny_data, tmp_path / "out", server.url, {"limit": 12}, settings))
    assert summary.complete
    traces = tmp_path / "out" / "vts_cot.json"
    recipe = tiny_recipe("sft", f"data.0.annotations={traces}")
    save_resolved(recipe, tmp_path / "recipe.yaml")
    monkeypatch.setenv(RECIPE_ENV, str(tmp_path / "recipe.yaml"))
    processor = AutoProcessor.from_pretrained(tiny_policy)
    data = SFTDataset(["train"], processor.tokenizer, None, processor)
    records = read_vts_cot(traces)
    assert len(data) == len(records) == 12
    for i, record in enumerate(records):
        row = data[i]
        sampled = processor.tokenizer.decode(row["input_ids"][row["loss_mask"].bool()])
        assert sampled.replace("<|im_end|>", "") == "".join(record.replies)
        assert sampled.count("Step 2: it is seen.") == len(record.replies) == len(row["episode"]["turns"])
