"""A tiny data set and a tiny policy, made once, and recipes on them.

The environment is set before any test imports verl, which picks its platform at import.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from verl_ext.recipe import Recipe, load_recipe

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["RAY_ADDRESS"] = "local"  # no cluster of somebody else's, whoever runs the tests where
os.environ["VERL_PLATFORM"] = "cpu"
os.environ["VERL_USE_EXTERNAL_MODULES"] = "verl_ext.plugin"

collect_ignore = [] if os.environ.get("VIDEOSEG_TEST_CLUSTER") else ["cluster"]  # see `make test-cluster`

ROOT = Path(__file__).parents[1]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """One process runs all files that start Ray and vLLM, a cluster of which takes up to 9 GiB. Other files stay whole.

    (Groups by mark, pytest-xdist's own way, do nothing in its 3.8 under pytest 9.2.)
    """
    return OneCluster(config, log)


class OneCluster(LoadScopeScheduling):  # type: ignore[misc]
    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return "e2e" if _starts_ray(self.config.rootpath / file) else file


@cache
def _starts_ray(file: Path) -> bool:
    return "mark.e2e" in file.read_text(encoding="utf-8")


PATCHED = tuple(f"transformers.models.{family}.modeling_{family}" for family in ("qwen2_5_vl", "qwen3_vl"))
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
BOX_SIDE, BOX_FRAMES = 112, 3
BOX_REWARDS = {"veason_format": 1.0, "veason_keyframe": 1.0, "veason_spatial": 1.0, "veason_consistency": 1.0}
BOX_RECIPE = f"""
base: [{ROOT}/recipes/bases/cpu.yaml, {ROOT}/recipes/bases/veason_r1.yaml]
policy: {{prompt_set: brief}}
rollout:
  box_frames: {BOX_FRAMES}
  box_side: {BOX_SIDE}
  prompt_length: 192
  response_length: 96
  turn_length: 96
  eval: {{box_frames: 4, response_length: null, turn_length: null}}
  engine: {{max_model_len: 320, max_num_seqs: 8}}
  group_size: 2
  top_p: 1.0
trainer: {{steps: 10, epochs: 100, prompts_per_step: 4, micro_batch: 2, save_every: 0, eval_every: 0}}
"""


@pytest.fixture(scope="module", autouse=True)
def transformers_as_it_was() -> Iterator[None]:
    """verl changes classes of transformers for the whole process when it makes an engine; the next file's tests get
    them as they were."""
    known = [import_module(name) for name in PATCHED]
    classes = {c for m in known for c in vars(m).values() if isinstance(c, type) and c.__module__ == m.__name__}
    before = {c: c.__dict__["forward"] for c in classes if "forward" in c.__dict__}
    yield
    for c, forward in before.items():
        if c.__dict__.get("forward") is not forward:
            c.forward = forward  # type: ignore[attr-defined]


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


@pytest.fixture(scope="session")
def tiny_box_traces(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    """Read-only: a seed CoT trace of every expression of the tiny data that has a target."""
    from data_construction.cot.seed import SeedSettings
    from data_construction.cot.seed_by_rule import write_seed_traces
    from data_construction.readers import open_dataset

    path = tmp_path_factory.mktemp("tiny") / "traces.jsonl"
    settings = SeedSettings(frames=BOX_FRAMES, side=BOX_SIDE)
    assert write_seed_traces(open_dataset("revos", tiny_data, "train"), path, settings) > 8
    return path


@pytest.fixture(scope="session")
def tiny_box_policies(tmp_path_factory: pytest.TempPathFactory, tiny_box_traces: Path) -> dict[str, Path]:
    """Read-only: untrained Qwen2.5-VLs, ``untied`` as transformers 5 writes them, ``published`` as the hub has them
    (tied, in shards, with spare rows)."""
    from tests.box_policies import published
    from verl_ext.tiny.box_policy import TinyBoxPolicy, build_tiny_box_policy

    folder = tmp_path_factory.mktemp("tiny_boxes")
    records = [json.loads(line)["record"] for line in tiny_box_traces.read_text().splitlines()]
    texts = [c["value"].replace("<image>", "") for r in records for c in r["conversations"]]
    widths = {"hidden": 64, "layers": 2, "vision_hidden": 32, "vision_layers": 2, "numbers": BOX_SIDE + 1}
    untied = build_tiny_box_policy(folder / "untied", texts, TinyBoxPolicy(**widths))
    tied = build_tiny_box_policy(
        folder / "tied", texts, TinyBoxPolicy(tie_embeddings=True, spare_rows=31, **widths), seed=1
    )
    return {"untied": untied, "published": published(tied, folder / "published")}


@pytest.fixture(scope="session")
def tiny_sam2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only: untrained weights of preset ``tiny``, as a box policy's pool loads them."""
    import torch

    from rewards.segmenter import Segmenter, SegmenterConfig

    path = tmp_path_factory.mktemp("tiny") / "sam2_tiny.pt"
    torch.save({"model": Segmenter(SegmenterConfig()).sam2_model.state_dict()}, path)
    return path


@pytest.fixture(scope="session")
def tiny_box_recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny_boxes.yaml"
    path.write_text(BOX_RECIPE)
    return path


@pytest.fixture(scope="session")
def tiny_box_settings(
    tiny_data: Path, tiny_box_traces: Path, tiny_box_policies: dict[str, Path], tiny_sam2: Path
) -> Callable[..., list[str]]:
    """The overrides that make the tiny box recipe one of a stage, on the tiny data and one of the box policies."""

    def make(stage: str, policy: str = "untied") -> list[str]:
        source = {"dataset": "revos", "root": str(tiny_data), "split": "train"}
        if stage == "sft":
            source["annotations"] = str(tiny_box_traces)
        held_out = {"dataset": "revos", "root": str(tiny_data), "split": "valid"}
        places = [f"policy.path={tiny_box_policies[policy]}", f"data=[{json.dumps(source)}]"]
        rewards = [f"rewards.weights={json.dumps(BOX_REWARDS)}", f"val=[{json.dumps(held_out)}]"]
        rewards += [f"pool.checkpoint={tiny_sam2}", "pool.preset=tiny"]
        return [f"stage={stage}", *places, *(rewards if stage == "grpo" else [])]

    return make


@pytest.fixture(scope="session")
def tiny_box_recipe(tiny_box_recipe_file: Path, tiny_box_settings: Callable[..., list[str]]) -> Callable[..., Recipe]:
    """``tiny_box_recipe("sft" or "grpo", *overrides, policy="untied" or "published")``."""

    def make(stage: str, *overrides: str, policy: str = "untied") -> Recipe:
        return load_recipe(tiny_box_recipe_file, [*tiny_box_settings(stage, policy), *overrides])

    return make


def script_of_docs(name: str) -> ModuleType:
    """A file of ``docs/``, which belongs to no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def performance() -> ModuleType:
    """``docs/performance.py``."""
    return script_of_docs("performance")
