"""Recipes: typed, checked and resolved without torch, verl, vLLM or Ray.

May import what lies below ``verl_ext``; `context` is the recipe that a run was started with.

>>> from verl_ext.recipe import load_recipe, plan
>>> recipe = load_recipe("recipes/videoseg_o3/grpo_2b.yaml", ["trainer.steps=10"])
"""

from __future__ import annotations

from verl_ext.recipe.checks import check, check_paths
from verl_ext.recipe.cluster import ClusterRecipe
from verl_ext.recipe.data import DataSource
from verl_ext.recipe.load import load_recipe, load_resolved, recipe_from_overrides, save_resolved
from verl_ext.recipe.objective import (
    CalibrationRecipe,
    ObjectiveRecipe,
    RewardsRecipe,
    RolloutCorrectionRecipe,
    SftLossRecipe,
)
from verl_ext.recipe.plan import Plan, PlannedProcess, plan
from verl_ext.recipe.policy import LoraRecipe, PolicyRecipe
from verl_ext.recipe.readiness import check_ready
from verl_ext.recipe.rollout import Budgets, EngineRecipe, EvalRollout, RolloutRecipe
from verl_ext.recipe.schema import Recipe
from verl_ext.recipe.source import override
from verl_ext.recipe.training import AheadRecipe, OptimRecipe, PoolRecipe, TrainerRecipe

__all__ = [
    "AheadRecipe",
    "Budgets",
    "CalibrationRecipe",
    "ClusterRecipe",
    "DataSource",
    "EngineRecipe",
    "EvalRollout",
    "LoraRecipe",
    "ObjectiveRecipe",
    "OptimRecipe",
    "Plan",
    "PlannedProcess",
    "PolicyRecipe",
    "PoolRecipe",
    "Recipe",
    "RewardsRecipe",
    "RolloutCorrectionRecipe",
    "RolloutRecipe",
    "SftLossRecipe",
    "TrainerRecipe",
    "check",
    "check_paths",
    "check_ready",
    "load_recipe",
    "load_resolved",
    "override",
    "plan",
    "recipe_from_overrides",
    "save_resolved",
]
