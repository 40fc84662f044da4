"""A tiny data set and a tiny policy, made once, and recipes on them.

The environment is set before any test imports verl, which picks its platform at import.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from verl_ext.recipe import Recipe, load_recipe

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["VERL_PLATFORM"] = "cpu"
os.environ["VERL_USE_EXTERNAL_MODULES"] = "verl_ext.plugin"

ROOT = Path(__file__).parents[1]
FRAMES, SIZE = 12, 48
DIALOGUE = (
    "rollout.max_turns=2",
    "rollout.initial_low_res=4",
    "rollout.initial_spatial=2",
    "rollout.frames_per_turn=2",
    "rollout.eval.initial_low_res=4",
    "rollout.eval.initial_spatial=2",
    "rollout.engine.max_model_len=768",
)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only: 3 + 2 clips of 12 frames at 48 pixels, with traces of one and two turns."""
    from data_construction.cot.plan import TraceSettings
    from data_construction.synthetic import make_synthetic

    root = tmp_path_factory.mktemp("tiny") / "data"
    traces = TraceSettings(temporal_frames=4, spatial_frames=2, frames_per_turn=2, turns=(0.3, 0.7))
    make_synthetic(root, {"train": 3, "valid": 2}, seed=3, frames=(FRAMES, FRAMES), size=SIZE, traces=traces)
    return root


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    """Read-only: an untrained [SEG] policy of well under a million parameters around a 64-pixel SAM 2."""
    from rewards.segmenter import Segmenter, SegmenterConfig
    from verl_ext.tiny.build import TinyPolicy, build_tiny_policy

    records = json.loads((tiny_data / "vts_cot_train.json").read_text())
    texts = [c["value"].replace("<image>", "") for r in records for c in r["conversations"]]
    segmenter = Segmenter(SegmenterConfig(image_size=64, d_model=32, mem_dim=16, memory_feedforward=32))
    size = TinyPolicy(hidden=64, layers=2, vision_hidden=32, vision_layers=2)
    return build_tiny_policy(tmp_path_factory.mktemp("tiny") / "policy", texts, segmenter, size)


@pytest.fixture(scope="session")
def tiny_recipe(tiny_data: Path, tiny_policy: Path) -> Callable[..., Recipe]:
    """``tiny_recipe("sft" or "grpo", *overrides)``: the quickstart's recipe on the tiny data and policy."""

    def make(stage: str, *overrides: str) -> Recipe:
        name = {"sft": "cold_start", "grpo": "grpo"}[stage]
        traces = [f"data.0.annotations={tiny_data / 'vts_cot_train.json'}"] if stage == "sft" else []
        held_out = [f"val.0.root={tiny_data}"] if stage == "grpo" else []
        places = [f"policy.path={tiny_policy}", f"data.0.root={tiny_data}", *traces, *held_out]
        return load_recipe(ROOT / f"recipes/quickstart/{name}.yaml", [*places, *DIALOGUE, *overrides])

    return make
