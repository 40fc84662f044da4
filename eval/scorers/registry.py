"""Scorers by name. A file in this package that uses ``@register_scorer`` is found by itself."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache

from eval.scorers.base import Scorer
from rollout.errors import DataError

_SCORERS: dict[str, type[Scorer]] = {}


def register_scorer(name: str) -> Callable[[type[Scorer]], type[Scorer]]:
    """Class decorator: benchmarks name the scorer as ``scorer: <name>``."""

    def register(cls: type[Scorer]) -> type[Scorer]:
        if _SCORERS.setdefault(name, cls) is not cls:
            raise DataError(f"scorer {name!r} is registered in {_SCORERS[name].__module__} and in {cls.__module__}")
        return cls

    return register


@cache
def _discover() -> None:
    import eval.scorers as folder

    for module in pkgutil.iter_modules(folder.__path__):
        importlib.import_module(f"{folder.__name__}.{module.name}")


def scorer_names() -> list[str]:
    """Every registered name, sorted."""
    _discover()
    return sorted(_SCORERS)


def get_scorer(name: str) -> Scorer:
    """The scorer called ``name``. Raises DataError that lists the known names."""
    if name not in scorer_names():
        raise DataError(f"no scorer called {name!r}; there are {', '.join(scorer_names())}")
    return _SCORERS[name]()
