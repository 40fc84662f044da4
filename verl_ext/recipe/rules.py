"""Where rules between settings are collected; `verl_ext.recipe.checks` asks them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from verl_ext.recipe.schema import Recipe

Rule = Callable[["Recipe"], Iterator[str]]
RULES: list[Rule] = []


def rule(check_one: Rule) -> Rule:
    """Add a function to `RULES`."""
    RULES.append(check_one)
    return check_one
