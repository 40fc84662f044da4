"""From files and overrides to a checked `Recipe`, and back to one resolved file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data_construction.atomic import write_whole
from rollout.errors import RecipeError
from verl_ext.recipe.checks import check
from verl_ext.recipe.convert import Converter
from verl_ext.recipe.schema import Recipe
from verl_ext.recipe.source import OVERRIDE, read_overrides, read_sources

DERIVED = {
    "trainer.mini_batch_prompts": "${trainer.prompts_per_step}",
    "rollout.engine.max_num_batched_tokens": "${rollout.engine.max_model_len}",
}
"""Defaults that follow another setting, unless they are set themselves."""


def recipe_from_overrides(name: str, overrides: Sequence[str]) -> Recipe:
    """The schema's defaults with ``overrides`` alone, for work that has no recipe file. Raises as `load_recipe`."""
    merged = _defaults(name)
    origins = dict.fromkeys(read_overrides(overrides, merged), OVERRIDE)
    return _typed(merged, name, origins)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in ``path`` with its bases, then ``overrides`` (``key=value``), typed and checked.

    Raises:
        RecipeError: all problems found, each with the key's path, the values seen and the remedy.
    """
    path = Path(path)
    merged = _defaults(path.stem)
    origins: dict[str, str] = {}
    for source in read_sources(path):
        origins |= dict.fromkeys(source.keys(), source.where)
        merged = _merged(merged, source.values, source.where)
    origins |= dict.fromkeys(read_overrides(overrides, merged), OVERRIDE)
    return _typed(merged, str(path), origins)


def load_resolved(path: str | Path) -> Recipe:
    """A recipe as `save_resolved` wrote it: complete, without bases or references."""
    values = OmegaConf.create(asdict(Recipe()))
    for source in read_sources(Path(path)):
        values = _merged(values, source.values, source.where)
    return _typed(values, str(path), {})


def save_resolved(recipe: Recipe, path: str | Path) -> None:
    """Every setting of the recipe as YAML, whole or not at all; `load_resolved` reads it back equal."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, OmegaConf.to_yaml(OmegaConf.create(asdict(recipe))))


def _defaults(name: str) -> DictConfig:
    merged = OmegaConf.create(asdict(Recipe(name=name)))
    for key, reference in DERIVED.items():
        OmegaConf.update(merged, key, reference)
    return merged


def _merged(onto: Any, values: DictConfig, where: str) -> DictConfig:
    try:
        merged = OmegaConf.merge(onto, values)
    except (OmegaConfBaseException, TypeError, ValueError) as e:
        raise RecipeError(f"{where}: {_swapped(onto, values) or str(e).splitlines()[0]}") from e
    assert isinstance(merged, DictConfig)
    return merged


def _swapped(onto: Any, values: Any, path: str = "") -> str:
    """The first key that is a mapping where a list belongs, or the other way round: such files do not merge."""
    for key in values:
        old, new = (node._get_node(key) for node in (onto, values))
        if {type(old), type(new)} == {ListConfig, DictConfig}:
            found, wanted = ("a mapping", "a list") if isinstance(new, DictConfig) else ("a list", "a mapping")
            return f"{path}{key}: found {found}, expected {wanted}"
        both_mappings = isinstance(old, DictConfig) and isinstance(new, DictConfig)
        if both_mappings and (deeper := _swapped(old, new, f"{path}{key}.")):
            return deeper
    return ""


def _typed(merged: DictConfig, where: str, origins: Mapping[str, str]) -> Recipe:
    try:
        values = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as e:
        raise RecipeError(f"{where}: a ${{...}} reference cannot be resolved: {str(e).splitlines()[0]}") from e
    assert isinstance(values, dict)
    converter = Converter(lambda key: _origin(key, origins))
    recipe = converter.section(Recipe, values)
    problems = converter.problems
    if not problems:
        recipe.rewards.weights = {name: w for name, w in recipe.rewards.weights.items() if w != 0}
        problems = check(recipe)
    if problems:
        raise RecipeError("\n".join([f"{where}: {_count(len(problems))}", *(f"  - {p}" for p in problems)]))
    assert isinstance(recipe, Recipe)
    return recipe


def _origin(key: str, origins: Mapping[str, str]) -> str:
    """Where a key or the nearest section around it was set."""
    path = key.replace("[", ".").replace("]", "")
    while path:
        if path in origins:
            return origins[path]
        path = path.rpartition(".")[0]
    return ""


def _count(n: int) -> str:
    return "one setting is wrong" if n == 1 else f"{n} settings are wrong"
