"""From a recipe to the environment's and the conversation's settings: one place, used by training and evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from rollout.verification import FRAMES
from verl_ext.recipe.asking import prompt_setting

if TYPE_CHECKING:
    from verl_ext.recipe import Recipe

ENVIRONMENTS = {"videoseg_o3": "keyframe_exploration", "veason_r1": "single_turn_boxes"}
"""The environment of each method, unless the recipe names another one."""


def environment_of(recipe: Recipe, evaluation: bool = False) -> tuple[str, dict[str, Any]]:
    """(registered name, settings) of the recipe's environment; evaluation has frame counts and budgets of its own.

    A box environment is told no frame rate, so that training and evaluation alike take each clip's own for its
    timestamps (1 frame a second where a data set does not say).
    """
    r = recipe.rollout
    name = r.environment or ENVIRONMENTS[recipe.method]
    verified = {FRAMES: r.verify_frames} if recipe.verifies else {}
    if recipe.has_boxes:
        return name, verified | {
            "frames": (r.eval.box_frames if evaluation else None) or r.box_frames,
            "side": r.box_side,
            "sampling": "evenly_spaced" if evaluation else "keyframe_congruent",
            "prompts": prompt_setting(recipe),
            "seed": recipe.seed,
            "unseen_seconds": r.eval.box_unseen_seconds,
            "units": r.box_units,
        }
    source = r.eval if evaluation else r
    return name, verified | {
        "temporal_frames": source.initial_low_res,
        "spatial_frames": source.initial_spatial,
        "frames_per_turn": r.frames_per_turn,
        "spare_frames": 0 if evaluation else 1,
        "max_turns": r.max_turns,
        "temporal_budget": source.budgets.low_res,
        "spatial_budget": source.budgets.spatial,
        "keyframe_budget": source.budgets.keyframe,
        "prompts": prompt_setting(recipe),
    }


class Limits(TypedDict):
    """Token limits of a conversation."""

    max_tokens: int
    max_prompt_tokens: int
    max_response_tokens: int


def conversation_limits(recipe: Recipe, evaluation: bool = False) -> Limits:
    """Token limits of a conversation; ``evaluation`` is ``videoseg eval``: verl's tensors bound those in training."""
    r = recipe.rollout
    return {
        "max_tokens": r.engine.max_model_len,
        "max_prompt_tokens": r.prompt_length,
        "max_response_tokens": (r.eval.response_length if evaluation else None) or r.response_length,
    }
