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
os.environ["RAY_ADDRESS"] = "local"  # no cluster of somebody else's, whoever runs the tests where
os.environ["VERL_PLATFORM"] = "cpu"
os.environ["VERL_USE_EXTERNAL_MODULES"] = "verl_ext.plugin"

collect_ignore = [] if os.environ.get("VIDEOSEG_TEST_CLUSTER") else ["cluster"]  # see `make test-cluster`

ROOT = Path(__file__).parents[1]
FRAMES, SIZE = 12, 48
RECIPE = f"""
base: [{ROOT}/recipes/bases/cpu.yaml, {ROOT}/recipes/bases/videoseg_o3.yaml]
policy: {{prompt_set: brief}}
rollout:
  max_turns: 2
  initial_low_res: 4
  initial_spatial: 2
  frames_per_turn: 2
  budgets: {{low_res: 4, spatial: 12, keyframe: 12}}
  prompt_length: 384
  response_length: 384
  turn_length: 96
  eval: {{initial_low_res: 4, initial_spatial: 2, budgets: {{low_res: 4, spatial: 12, keyframe: 12}}}}
  engine: {{max_model_len: 768, max_num_seqs: 8}}
  group_size: 2
  top_p: 1.0
trainer: {{steps: 10, epochs: 100, prompts_per_step: 4, micro_batch: 2, save_every: 0, eval_every: 0}}
"""


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
def tiny_recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="session")
def tiny_settings(tiny_data: Path, tiny_policy: Path) -> Callable[[str], list[str]]:
    """The overrides that make the tiny recipe one of a stage, on the tiny data and policy."""

    def make(stage: str) -> list[str]:
        source = {"dataset": "revos", "root": str(tiny_data), "split": "train"}
        if stage == "sft":
            source["annotations"] = str(tiny_data / "vts_cot_train.json")
        held_out = {"dataset": "revos", "root": str(tiny_data), "split": "valid"}
        places = [f"policy.path={tiny_policy}", f"data=[{json.dumps(source)}]"]
        return [f"stage={stage}", *places, *([f"val=[{json.dumps(held_out)}]"] if stage == "grpo" else [])]

    return make


@pytest.fixture(scope="session")
def tiny_recipe(tiny_recipe_file: Path, tiny_settings: Callable[[str], list[str]]) -> Callable[..., Recipe]:
    """``tiny_recipe("sft" or "grpo", *overrides)``."""

    def make(stage: str, *overrides: str) -> Recipe:
        return load_recipe(tiny_recipe_file, [*tiny_settings(stage), *overrides])

    return make
