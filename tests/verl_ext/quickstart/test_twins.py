"""The stages' data in the world of like pairs: what each is taught, and that every dialogue fits its recipe."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest

from data_construction.readers import open_dataset
from rewards.truth import truth
from rollout.types import Sample
from verl_ext.quickstart import stages
from verl_ext.quickstart.settings import Layout, QuickstartSettings, stage_recipe
from verl_ext.quickstart.twins import TEACHER, twin_settings


@pytest.fixture(scope="module")
def settings() -> QuickstartSettings:
    small: dict[str, Any] = {"hidden": 64, "layers": 1, "vision_hidden": 32, "vision_layers": 1}
    return replace(twin_settings("cpu"), clips={"train": 12, "valid": 1, "test": 1}, policy=small, warm_up_steps=1)


@pytest.fixture(scope="module")
def layout(settings: QuickstartSettings, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    layout = Layout(tmp_path_factory.mktemp("twins"))
    stages.make_data(layout, settings, 0, lambda *_: None)
    stages.build_policy(layout, settings, 0, lambda *_: None)
    return layout


def conversations(layout: Layout, name: str, settings: QuickstartSettings, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stage's; every one of them is replayed, which raises for one that does not fit."""
    from transformers import AutoProcessor

    from verl_ext.recipe import save_resolved
    from verl_ext.recipe.context import RECIPE_ENV
    from verl_ext.supervised.dataset import SFTDataset

    resolved = layout.out / f"{name}.resolved"
    save_resolved(stage_recipe(layout, name, settings, 0), resolved)
    monkeypatch.setitem(os.environ, RECIPE_ENV, str(resolved))
    processor = AutoProcessor.from_pretrained(layout.untrained)
    return SFTDataset(tokenizer=processor.tokenizer, processor=processor)


def test_the_first_stage_draws_the_truth_and_the_cold_start_what_its_teacher_drew(
    layout: Layout, settings: QuickstartSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = {s.id: s.masklets for s in open_dataset("revos", layout.data, "train").samples()}
    for name, least, most in (("segmentation.yaml", 0.0, 0.0), ("cold_start.yaml", 0.15, 0.45)):
        items = conversations(layout, name, settings, monkeypatch)
        assert len(items) == len(true) == 48
        samples = [Sample.from_dict(items[i]["sample"]) for i in range(len(items))]
        other = sum(truth(s) != true[s.id] for s in samples)
        assert least <= other / 48 <= most, name
    assert TEACHER["wrong_twin"] == 0.6


def test_no_reply_says_which_disc_is_meant(
    layout: Layout, settings: QuickstartSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("segmentation.yaml", "cold_start.yaml"):
        items = conversations(layout, name, settings, monkeypatch)
        for _, record in items.items:
            (reply,) = record.replies
            assert "[SEG]" in reply and "left" not in reply and "right" not in reply
            assert any(side in record.exp for side in ("left", "right"))


def test_only_the_cold_start_leaves_the_dice_loss_out_and_no_stage_of_rl_sees_masks(layout: Layout) -> None:
    recipes = {n: stage_recipe(layout, n, twin_settings("cuda"), 0) for n in twin_settings().stages}
    assert recipes["segmentation.yaml"].sft_loss.dice == 0.5 and recipes["cold_start.yaml"].sft_loss.dice == 0.0
    assert recipes["grpo.yaml"].objective.aux_coef == 0.0
    assert all(recipe.rollout.max_turns == 1 for recipe in recipes.values())
