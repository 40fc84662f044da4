"""Plain YAML values to the typed tree of a recipe, strictly: nothing is coerced but an int to a float.

Every problem names the key's path, the value and where it was set; all problems of a recipe are reported together.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

MISSING = "???"
BAD = object()
"""Stands for a value that could not be converted (its problem is in the list)."""


@cache
def field_types(cls: type) -> dict[str, Any]:
    """Field name -> resolved type annotation of a recipe dataclass."""
    return get_type_hints(cls)


def describe(kind: Any) -> str:
    """A type in a reader's words: ``int``, ``one of sft, grpo``, ``list of str or null``."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(str(a) for a in args)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if a is type(None) else describe(a) for a in args)
    if origin is list:
        return f"list of {describe(args[0])}"
    if origin is dict:
        return f"mapping from {describe(args[0])} to {describe(args[1])}"
    return "mapping" if dataclasses.is_dataclass(kind) else getattr(kind, "__name__", str(kind))


def unknown_key(path: str, key: str, known: Mapping[str, Any]) -> str:
    """The sentence for a key that a section does not have."""
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known))}"
    return f"{path}: unknown key; {hint}"


class Converter:
    """Converts one merged recipe and gathers what is wrong with it in ``problems``."""

    def __init__(self, origin: Callable[[str], str]) -> None:
        """``origin`` says in which file a dotted key was set (``""`` if nowhere)."""
        self._origin = origin
        self.problems: list[str] = []

    def section(self, cls: type, values: Mapping[Any, Any], path: str = "") -> Any:
        """``values`` as ``cls``; ``BAD`` if any of them cannot be converted."""
        kinds = field_types(cls)
        out: dict[str, Any] = {}
        for key, value in values.items():
            where = f"{path}{key}"
            if key not in kinds:
                self.problems.append(unknown_key(where, str(key), kinds) + self._set_in(where))
                continue
            out[key] = self.value(kinds[key], value, where)
        for f in dataclasses.fields(cls):
            if f.default == MISSING and f.name not in out:
                out[f.name] = self.value(kinds[f.name], MISSING, f"{path}{f.name}")
        return BAD if any(v is BAD for v in out.values()) else cls(**out)

    def value(self, kind: Any, value: Any, path: str) -> Any:
        """One value as ``kind``, or ``BAD``."""
        if isinstance(value, str) and value == MISSING:
            self.problems.append(f"{path}: is not set; add it to the recipe or give {path}=... on the command line")
            return BAD
        origin, args = get_origin(kind), get_args(kind)
        if origin in (Union, types.UnionType):
            if value is None:
                return None
            return self.value(next(a for a in args if a is not type(None)), value, path)
        if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
            return self.section(kind, value, f"{path}.")  # type: ignore[arg-type]
        if origin is list and isinstance(value, list):
            items = [self.value(args[0], v, f"{path}[{i}]") for i, v in enumerate(value)]
            return BAD if any(v is BAD for v in items) else items
        if origin is dict and isinstance(value, Mapping):
            table = {str(k): self.value(args[1], v, f"{path}.{k}") for k, v in value.items() if v is not None}
            return BAD if any(v is BAD for v in table.values()) else table
        return self._scalar(kind, value, path)

    def _scalar(self, kind: Any, value: Any, path: str) -> Any:
        if get_origin(kind) is Literal:
            if isinstance(value, str) and value in get_args(kind):
                return value
        elif kind is float and type(value) is int:
            return float(value)
        elif type(value) is kind:
            return value
        found = "null" if value is None else f"{value!r} ({type(value).__name__})"
        near = [] if get_origin(kind) is not Literal else difflib.get_close_matches(str(value), get_args(kind), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        if kind is str and isinstance(value, (bool, int, float)):
            hint = "; YAML takes it for a number (24:00:00 as well) or for true and false: put it in quotes"
        self.problems.append(f"{path}: found {found}, expected {describe(kind)}{hint}{self._set_in(path)}")
        return BAD

    def _set_in(self, path: str) -> str:
        where = self._origin(path)
        return f" [{where}]" if where else ""
