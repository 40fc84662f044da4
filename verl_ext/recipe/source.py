"""Reading recipe files: YAML with ``base: other.yaml`` inheritance, and ``key=value`` overrides.

Every value remembers where it was set, so that an error can name the file.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from rollout.errors import RecipeError
from rollout.text_files import read_text

OVERRIDE = "command line"
BASE = "base"


@dataclass(frozen=True)
class Source:
    """One recipe file without its bases, or the overrides."""

    where: str
    values: DictConfig

    def keys(self) -> Iterator[str]:
        """Dotted keys of all values that are set here, lists as a whole."""
        yield from _leaves(self.values)


def read_sources(path: Path) -> list[Source]:
    """The file and all its bases, furthest base first: later ones win.

    Raises:
        RecipeError: a file is missing, is no YAML mapping, or is its own base.
    """
    return list(_read(path, ()))


def _read(path: Path, heirs: tuple[Path, ...]) -> Iterator[Source]:
    resolved = path.resolve()
    if resolved in heirs:
        chain = " -> ".join(str(p) for p in (*heirs, resolved))
        raise RecipeError(f"{path}: is its own base ({chain}); remove one `base:` line")
    values = _load_yaml(path, heirs)
    bases = values.pop(BASE, None)
    for base in bases if isinstance(bases, ListConfig) else [] if bases is None else [bases]:
        if not isinstance(base, str):
            raise RecipeError(f"{path}: base: found {base!r}; expected a path relative to this file, or a list of them")
        yield from _read(path.parent / base, (*heirs, resolved))
    yield Source(str(path), values)


def _load_yaml(path: Path, heirs: tuple[Path, ...]) -> DictConfig:
    if not path.is_file():
        named = f" (the base of {heirs[-1]})" if heirs else ""
        raise RecipeError(f"{path}: no such recipe file{named}; shipped recipes are under recipes/")
    try:
        values = OmegaConf.load(io.StringIO(read_text(path)))
    except (YAMLError, OmegaConfBaseException, ValueError, OSError) as e:
        raise RecipeError(f"{path}: is not readable as YAML: {e}") from e
    if not isinstance(values, DictConfig):
        raise RecipeError(f"{path}: found a {type(values).__name__}; a recipe is a mapping of sections")
    return values


def read_overrides(overrides: Sequence[str], onto: DictConfig) -> list[str]:
    """Set ``key=value`` texts on ``onto``; the keys that were set. Lists are reached by index: ``data.0.root=...``.

    A value is YAML: ``trainer.loggers=[console,wandb]``, ``optim.decoder_lr=null``.

    Raises:
        RecipeError: a text without ``=``, a value that is no YAML, or an index outside a list.
    """
    keys = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"override {text!r}: expected key=value, for example trainer.steps=10")
        try:
            parsed = OmegaConf.to_container(OmegaConf.create(f"value: {value}" if value.strip() else "value: ''"))
            assert isinstance(parsed, dict)
            OmegaConf.update(onto, key, parsed["value"], merge=True, force_add=True)
        except (YAMLError, OmegaConfBaseException, IndexError, TypeError, ValueError) as e:
            raise RecipeError(f"override {text!r}: cannot be set: {str(e).splitlines()[0]}") from e
        keys.append(key)
    return keys


def override(key: str, value: Any) -> str:
    """The ``key=value`` text from which `read_overrides` gets ``value`` back: a path may hold ``#``, ``:``, quotes."""
    return f"{key}={json.dumps(value, ensure_ascii=False)}"  # JSON is YAML, and quotes what YAML takes for its own


def _leaves(node: Any, prefix: str = "") -> Iterator[str]:
    for key in node:
        path = f"{prefix}{key}"
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_interpolation() and len(child):
            yield from _leaves(child, f"{path}.")
        else:
            yield path
