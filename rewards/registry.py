"""Rewards by name. A file in this package that uses ``@register_reward`` is found by itself: no list to edit.

Only files that carry the decorator are imported, so looking up a reward loads neither torch nor Ray, although the
segmenter and its pool live in the same package.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from rewards.types import AnyRewardInput, CombinedRewardInput, RewardInput, Variant
from rollout.errors import RecipeError

_Score = TypeVar("_Score", bound=Callable[..., float])
_DECORATED = re.compile(r"^@register_reward\(", re.MULTILINE)


@dataclass(frozen=True)
class Reward:
    """A named pure function from one rollout to a number."""

    name: str
    input_types: tuple[type, ...]
    """What it can score; one of both kinds of answers names both."""
    score: Callable[..., float]
    module: str
    of_masks: bool = False
    """It judges masks by their IoU; the others judge what the text says and chooses."""
    propagated: bool = False
    """It judges masks after propagation, which the segmenter makes only if a reward asks for them."""

    def __call__(self, x: AnyRewardInput, variant: Variant = "intended") -> float:
        """Score ``x``, or its part of a combined answer; raises RecipeError if it belongs to another protocol."""
        if isinstance(x, CombinedRewardInput):
            x = x.part(self.input_types)
        if not isinstance(x, self.input_types):
            scored = " and ".join(kind.__name__ for kind in self.input_types)
            raise RecipeError(
                f"reward {self.name!r} scores {scored}, found {type(x).__name__}; "
                "multi-turn and box rewards cannot be mixed in one recipe"
            )
        return float(self.score(x, variant))


_REWARDS: dict[str, Reward] = {}


def register_reward(
    name: str,
    on: type[Any] | tuple[type[Any], ...] = RewardInput,
    of_masks: bool = False,
    propagated: bool = False,
) -> Callable[[_Score], _Score]:
    """Register ``score(x, variant) -> float`` under ``name``; ``on`` is the kind of input that it reads (or several),
    ``of_masks`` says that it judges masks, ``propagated`` that these are ``x.propagated``."""

    def decorate(score: _Score) -> _Score:
        known = _REWARDS.get(name)
        if name == "total":
            raise RecipeError(f"{score.__module__}: a reward cannot be called 'total', that is the weighted sum")
        if known is not None and known.module != score.__module__:
            raise RecipeError(f"reward {name!r} is registered in {known.module} and in {score.__module__}; rename one")
        kinds = on if isinstance(on, tuple) else (on,)
        _REWARDS[name] = Reward(name, kinds, score, score.__module__, of_masks, propagated)
        return score

    return decorate


@cache
def _discover() -> None:
    """Import every module under this package that registers a reward."""
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        if _DECORATED.search(path.read_text(encoding="utf-8")):
            importlib.import_module(".".join((__package__ or "rewards", *path.relative_to(root).with_suffix("").parts)))


def reward_names() -> list[str]:
    """Every known name, sorted."""
    _discover()
    return sorted(_REWARDS)


def mask_reward_names() -> list[str]:
    """Those that judge masks, sorted."""
    return [name for name in reward_names() if _REWARDS[name].of_masks]


def propagation_reward_names() -> list[str]:
    """Those that judge masks after propagation, sorted."""
    return [name for name in reward_names() if _REWARDS[name].propagated]


def get_reward(name: str) -> Reward:
    """The reward called ``name``; raises RecipeError that lists the known names."""
    _discover()
    if name not in _REWARDS:
        near = difflib.get_close_matches(name, _REWARDS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise RecipeError(f"unknown reward {name!r}; {hint}known: {', '.join(sorted(_REWARDS))}")
    return _REWARDS[name]
