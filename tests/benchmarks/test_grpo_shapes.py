"""The shapes that RL steps are measured at: their sizes, and that their recipes fit one GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import grpo_shapes
from benchmarks.grpo_shapes import SHAPES, step_recipe
from verl_ext.recipe.model_size import ModelSize
from verl_ext.recipe.placement import place
from verl_ext.tiny.box_policy import QWEN2_5_VL_3B, TinyBoxPolicy, tiny_box_config
from verl_ext.tiny.tokenizer import train_tokenizer

PARAMETERS_3B = 3_754_622_976
"""Of the published Qwen2.5-VL-3B-Instruct."""
H200_GIB = 139


def test_the_3b_shape_is_the_published_one() -> None:
    from transformers import Qwen2_5_VLForConditionalGeneration

    config = tiny_box_config(train_tokenizer(["a box"], added=()), TinyBoxPolicy(**QWEN2_5_VL_3B))
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(config)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS_3B
    assert config.text_config.rope_parameters["mrope_section"] == [16, 24, 24]
    assert config.vision_config.num_heads == config.text_config.num_attention_heads == 16


@pytest.mark.parametrize("name", SHAPES)
def test_its_recipe_runs_on_one_gpu(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"policy_{name}").mkdir()
    (tmp_path / f"policy_{name}" / "config.json").write_text("{}")
    monkeypatch.setattr(grpo_shapes, "make_data", lambda work, side, clips: work / f"data_{side}_{clips}")
    monkeypatch.setattr(grpo_shapes, "make_segmenter", lambda work, preset: work / f"{preset}.pt")
    recipe, settings = step_recipe(tmp_path, name, "cuda", tmp_path / "run", ["rollout.group_size=8"], clips=12)
    assert recipe.rollout.group_size == 8 and recipe.rollouts_per_step == 8 * recipe.trainer.prompts_per_step
    assert recipe.policy.path == str(tmp_path / f"policy_{name}") and settings[-1] == "rollout.group_size=8"
    assert {s.root for s in recipe.data} == {str(tmp_path / f"data_{SHAPES[name].side}_12")}
    assert (recipe.method == "veason_r1") == SHAPES[name].boxes == (recipe.pool.checkpoint is not None)
    if name != "3b":
        return
    assert (recipe.trainer.prompts_per_step, recipe.rollout.box_side, recipe.rollout.turn_length) == (16, 560, 1024)
    (gpu,) = place(recipe, ModelSize(PARAMETERS_3B, hidden=2048, layers=36, vocabulary=151936))
    for held in (gpu.updating, gpu.rolling_out):
        assert sum(gib or 0.0 for gib in held.values()) < H200_GIB, held
