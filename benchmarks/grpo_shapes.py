"""The policies with random weights that RL steps are measured with: recipes, settings, clips and folders of each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verl_ext.recipe import Recipe

RECIPES = Path(__file__).parents[1] / "recipes"
LARGE = (
    "policy.gradient_checkpointing=true",
    "policy.prompt_set=full",
    "rollout.budgets.low_res=32",
    "rollout.budgets.spatial=128",
    "rollout.budgets.keyframe=256",
    "rollout.prompt_length=4096",
    "rollout.response_length=2048",
    "rollout.turn_length=256",
    "rollout.engine.max_model_len=6144",
    "rollout.engine.max_num_batched_tokens=8192",
    "rollout.engine.enforce_eager=false",
    "trainer.micro_batch=4",
    "optim.lr=3e-6",
    "optim.projection_lr=3e-6",
    "optim.decoder_lr=3e-6",
)
"""What the quickstart's recipe lacks of the published numbers."""
LARGE_BOXES = (
    "data.0.dataset=revos",
    "data.0.split=train",
    "rollout.engine.tensor_parallel=1",
    "pool.workers=1",
    "trainer.steps=null",
    "trainer.epochs=1000",
)
"""Veason-R1's recipe on synthetic clips, a GPU for each process."""


@dataclass(frozen=True)
class Shape:
    """A policy and the recipe that it is measured under."""

    recipe: str
    """Below ``recipes``."""
    boxes: bool = False
    """A Qwen2.5-VL that answers with boxes; otherwise a Qwen3-VL with SAM 2 inside."""
    large: bool = False
    """Of the published sizes, with SAM 2.1-L, bfloat16; otherwise tiny, float32."""
    settings: tuple[str, ...] = ()

    @property
    def side(self) -> int:
        """Of the clips' frames, in pixels."""
        return 448 if self.large else 96

    @property
    def preset(self) -> str:
        """Of SAM 2."""
        return "sam2.1_hiera_l" if self.large else "tiny"


SHAPES = {
    "tiny": Shape("quickstart/grpo.yaml"),
    "2b": Shape("quickstart/grpo.yaml", large=True, settings=LARGE),
    "tiny_boxes": Shape("quickstart/veason_r1/grpo.yaml", boxes=True),
    "3b": Shape("veason_r1/grpo_3b.yaml", boxes=True, large=True, settings=LARGE_BOXES),
}


def make_data(work: Path, side: int, clips: int) -> Path:
    """The folder of ``clips`` synthetic training clips below ``work``, made unless it is there."""
    from data_construction.cot import TraceSettings
    from data_construction.synthetic import make_synthetic

    traces = TraceSettings(temporal_frames=6, spatial_frames=2, frames_per_turn=4)
    data = work / f"data_{side}_{clips}"
    make_synthetic(data, {"train": clips, "valid": 4}, seed=0, size=side, traces=traces)
    return data


def make_policy(folder: Path, name: str, device: str, traces: Sequence[dict[str, Any]]) -> None:
    """A random policy of the shape ``name``; its tokenizer is trained on the traces."""
    import torch

    shape = SHAPES[name]
    texts = [c["value"].replace("<image>", "") for t in traces for c in t["conversations"]]
    dtype = torch.bfloat16 if shape.large else torch.float32
    if shape.boxes:
        from verl_ext.tiny.box_policy import QWEN2_5_VL_3B, TinyBoxPolicy, build_tiny_box_policy

        widths: dict[str, Any] = QWEN2_5_VL_3B if shape.large else GPU_TINY_BOXES if device == "cuda" else {}
        build_tiny_box_policy(folder, texts, TinyBoxPolicy(**widths), dtype=dtype, device=device)
        return
    from rewards.segmenter import Segmenter, SegmenterConfig
    from verl_ext.tiny.build import GPU_TINY, QWEN3_VL_2B, TinyPolicy, build_tiny_policy

    widths = QWEN3_VL_2B if shape.large else GPU_TINY if device == "cuda" else {}
    config = SegmenterConfig(preset=shape.preset, compute_dtype="bfloat16" if shape.large else "float32")
    build_tiny_policy(folder, texts, Segmenter(config), TinyPolicy(**widths), dtype=dtype, device=device)


GPU_TINY_BOXES = {"hidden": 256, "head_dim": 64, "vision_hidden": 128, "vision_head_dim": 64}
"""CUDA attention kernels want heads of 64 or 128."""


def make_segmenter(work: Path, preset: str) -> Path:
    """SAM 2 with random weights as a file of its own, as a box policy's pool reads it."""
    import torch

    from rewards.segmenter import Segmenter, SegmenterConfig

    path = work / f"sam2_{preset}.pt"
    if not path.exists():
        scratch = path.with_suffix(".part")
        torch.save({"model": Segmenter(SegmenterConfig(preset=preset)).sam2_model.state_dict()}, scratch)
        scratch.replace(path)
    return path


def step_recipe(
    work: Path, name: str, device: str, out: Path, more: Sequence[str], *, clips: int = 24, policy: Path | None = None
) -> tuple[Recipe, list[str]]:
    """The recipe of a step at the shape ``name`` and the settings that make it so; clips and policy are made.

    Args:
        work: folder of clips and policies.
        out: the run's folder.
        more: settings that come last.
        policy: a folder to train in place of a random one.
    """
    from verl_ext.quickstart.settings import ONE_GPU
    from verl_ext.recipe import load_recipe, override

    shape = SHAPES[name]
    data = make_data(work, shape.side, clips)
    folder = policy or work / f"policy_{name}"
    if not (folder / "config.json").exists():
        make_policy(folder, name, device, json.loads((data / "vts_cot_train.json").read_text()))
    settings = [
        override("policy.path", str(folder)),
        override("output_dir", str(out)),
        *(override(f"data.{i}.root", str(data)) for i in range(1 if shape.boxes else 2)),
        override("val.0.root", str(data)),
        *([override("pool.checkpoint", str(make_segmenter(work, shape.preset)))] if shape.boxes else []),
        *(ONE_GPU if device == "cuda" else []),
        *shape.settings,
        *more,
    ]
    return load_recipe(RECIPES / shape.recipe, settings), settings
