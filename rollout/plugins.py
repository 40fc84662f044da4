"""Plug-ins by folder: a file of a package that registers itself is found without being named anywhere."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache


@cache
def import_files_of(package: str) -> None:
    """Import every file of ``package`` once, in the order of their names, so that what registers there is known.

    The package is given by name: its files import the registry that asks for them.
    """
    folder = importlib.import_module(package)
    for module in sorted(pkgutil.iter_modules(folder.__path__), key=lambda m: m.name):
        importlib.import_module(f"{package}.{module.name}")
