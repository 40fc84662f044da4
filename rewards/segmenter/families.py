"""The segmenters that there are, by name; a family's code is imported when it is used."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from rewards.segmenter.architecture import Architecture, Family

MODULES = {"sam2": "rewards.segmenter.sam2", "sam3": "rewards.segmenter.sam3"}
"""Each has a ``FAMILY``."""


def family(name: str) -> Family:
    return import_module(MODULES[name]).FAMILY  # type: ignore[no-any-return]


def wrap(name: str, model: nn.Module) -> Architecture:
    """``model`` behind the interface.

    Raises:
        ValueError: it has an option that decoding or propagation does not follow.
    """
    chosen = family(name)
    for path, needed in chosen.options.items():
        if (found := _at(model, path)) != needed:
            raise ValueError(f"{name.upper()} option {path} is {found!r}; the segmenter needs {needed!r}")
    return chosen.wrap(model)


def load_weights(name: str, model: nn.Module, path: Path) -> None:
    """Fill ``model`` from a file of weights of its family, strictly. Raises DataError."""
    family(name).load(model, path)


def _at(owner: Any, path: str) -> Any:
    for part in path.split("."):
        owner = getattr(owner, part)
    return owner
