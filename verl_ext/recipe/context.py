"""The recipe that a run was started with, for code that verl instantiates in other processes.

The launcher writes the resolved recipe and names it in ``VIDEOSEG_RECIPE``; every worker reads it from there, so that
no setting has to be smuggled through verl's own configuration.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from rollout.errors import RecipeError

if TYPE_CHECKING:
    from verl_ext.recipe import Recipe

RECIPE_ENV = "VIDEOSEG_RECIPE"


def active_recipe() -> Recipe:
    """The resolved recipe of this run.

    Raises:
        RecipeError: the process was not started by ``videoseg`` (the variable is unset).
    """
    path = os.environ.get(RECIPE_ENV)
    if not path:
        raise RecipeError(
            f"{RECIPE_ENV} is not set: start training with `videoseg train`, not with verl's own entry point"
        )
    return _load(str(Path(path).resolve()))


@lru_cache(maxsize=4)
def _load(path: str) -> Recipe:
    from verl_ext.recipe import load_resolved

    return load_resolved(path)
