"""The quickstart of Veason-R1: a tiny Qwen2.5-VL that answers with boxes; sizes, its data and its policy."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from verl_ext.quickstart.settings import Layout, QuickstartSettings, stage_recipe

if TYPE_CHECKING:
    from data_construction.readers import Dataset
    from rewards.segmenter import Segmenter

METHOD = "veason_r1"
RECIPES = (
    ("cold_start.yaml", "quickstart/veason_r1/cold_start.yaml"),
    ("grpo.yaml", "quickstart/veason_r1/grpo.yaml"),
)
TRACES = "seed_cot_train.jsonl"
OTHER_LAYOUT = "reasonvos"
"""A second data set, which the trained policy is evaluated on: other files, other texts."""


def box_settings(device: str = "cpu", rl_steps: int | None = None) -> QuickstartSettings:
    """What ``videoseg quickstart --method veason_r1`` runs."""
    from verl_ext.quickstart.settings import ONE_GPU

    shared = ONE_GPU if device == "cuda" else ()
    return QuickstartSettings(
        method=METHOD,
        recipes=RECIPES,
        clips={"train": 300, "valid": 30, "test": 40},
        kinds={"attribute": 3.0, "count": 0.35, "negation": 0.35},
        warm_up={},
        propagation_gate=True,  # nothing trains it later, and its own training includes the score
        warm_up_steps=350,
        warm_up_enough=0.0,  # it is told by words, and here boxes are asked for
        test_samples=100,
        cold_start=shared,
        grpo=shared,
        device=device,
        rl_steps=rl_steps,
        other_layouts=(OTHER_LAYOUT,),
    )


def write_box_data(train: Dataset, layout: Layout, settings: QuickstartSettings, seed: int) -> None:
    """Seed CoT of the train split, on the frames that the recipe shows."""
    from data_construction.cot.seed import SeedSettings
    from data_construction.cot.seed_by_rule import write_seed_traces

    rollout = stage_recipe(layout, "cold_start.yaml", settings, seed).rollout
    write_seed_traces(train, layout.data / TRACES, SeedSettings(rollout.box_frames, rollout.box_side, seed=seed))


def build_box_policy(layout: Layout, settings: QuickstartSettings, segmenter: Segmenter, seed: int) -> None:
    """SAM 2 as a file of its own, as a box policy's pool reads it, and an untrained Qwen2.5-VL."""
    import torch

    from verl_ext.tiny.box_policy import TinyBoxPolicy, build_tiny_box_policy

    partial = layout.sam2.with_suffix(".part")
    torch.save({"model": segmenter.sam2_model.state_dict()}, partial)
    os.replace(partial, layout.sam2)
    lines = (layout.data / TRACES).read_text(encoding="utf-8").splitlines()
    records = [json.loads(line)["record"] for line in lines[:3000]]
    texts = [c["value"].replace("<image>", "") for r in records for c in r["conversations"]]
    side = stage_recipe(layout, "cold_start.yaml", settings, seed).rollout.box_side
    widths = {"numbers": side + 1} | settings.policy
    build_tiny_box_policy(layout.untrained, texts, TinyBoxPolicy(**widths), seed=seed)
