"""Frozen settings built from the plain dictionaries of a recipe; an unknown key or a wrong type is an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from rollout.errors import RecipeError

S = TypeVar("S")


def settings_from_dict(cls: type[S], values: Mapping[str, Any], base: S | None = None) -> S:
    """``cls`` from ``values``, the rest taken from ``base`` (or the defaults).

    Raises `RecipeError` naming the key, what was found and what is allowed.
    """
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    given: dict[str, Any] = {} if base is None else {name: getattr(base, name) for name in known}
    defaults = cls() if base is None else base
    for key, value in values.items():
        if key not in known:
            raise RecipeError(f"{cls.__name__} has no setting {key!r}; it has {', '.join(sorted(known))}")
        expected = type(getattr(defaults, key))
        if expected is float and type(value) is int:
            value = float(value)
        if type(value) is not expected:
            raise RecipeError(f"{cls.__name__}.{key} = {value!r}: expected {expected.__name__}")
        given[key] = value
    return cls(**given)
