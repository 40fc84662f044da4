"""Packagers by name. A file in this package that uses ``@register_packager`` is found by itself."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from rollout.errors import DataError

if TYPE_CHECKING:
    from eval.submission.base import Packager

_PACKAGERS: dict[str, type[Packager]] = {}


def register_packager(name: str) -> Callable[[type[Packager]], type[Packager]]:
    """Class decorator: benchmarks name the packager as ``submission: <name>``."""

    def register(cls: type[Packager]) -> type[Packager]:
        if _PACKAGERS.setdefault(name, cls) is not cls:
            raise DataError(f"packager {name!r} is registered in {_PACKAGERS[name].__module__} and {cls.__module__}")
        return cls

    return register


@cache
def _discover() -> None:
    import eval.submission as folder

    for module in pkgutil.iter_modules(folder.__path__):
        importlib.import_module(f"{folder.__name__}.{module.name}")


def packager_names() -> list[str]:
    """Every registered name, sorted."""
    _discover()
    return sorted(_PACKAGERS)


def get_packager(name: str) -> Packager:
    """The packager called ``name``. Raises DataError that lists the known names."""
    if name not in packager_names():
        raise DataError(f"no packager called {name!r}; there are {', '.join(packager_names())}")
    return _PACKAGERS[name]()
