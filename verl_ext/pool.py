"""The segmenter pool of a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verl_ext.recipe import Recipe


def build_pool(recipe: Recipe) -> Any:
    """Start the pool's actors with the policy's own SAM 2 (or the recipe's ``pool.checkpoint``)."""
    raise NotImplementedError
