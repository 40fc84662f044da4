"""Every recipe key as Markdown: ``python -m verl_ext.recipe.docs > docs/recipes.md``.

Types, defaults and explanations come from the schema itself, so that the page cannot drift from the code.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, get_args, get_origin

from verl_ext.recipe.convert import MISSING as NOT_SET
from verl_ext.recipe.convert import describe, field_types
from verl_ext.recipe.load import DERIVED
from verl_ext.recipe.schema import Recipe

HEAD = """\
# Recipe keys

A recipe is YAML over these keys; `base: other.yaml` (or a list) inherits, the command line overrides: `key=value`,
list items by number (`data.0.root=...`). An unknown key or a wrong type stops at once. Paths are relative to where the
command runs, a base to the file that names it; `${oc.env:NAME,default}` reads the environment.

This page is written by `python -m verl_ext.recipe.docs > docs/recipes.md`.
"""


def recipe_page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_section(Recipe, "", "The run")])


def _section(cls: type, path: str, title: str) -> Iterator[str]:
    """A table of the section's own keys, then its sub-sections."""
    helps, kinds = _helps(cls), field_types(cls)
    nested: list[tuple[type, str]] = []
    yield f"## {title}\n"
    yield f"{_text(inspect.getdoc(cls) or '')}\n"
    yield "| key | type | default | what |"
    yield "|---|---|---|---|"
    for f in fields(cls):
        kind = kinds[f.name]
        inner = get_args(kind)[0] if get_origin(kind) is list else kind
        key = f"{path}{f.name}"
        if is_dataclass(inner):
            nested.append((inner, f"{key}[]" if inner is not kind else key))  # type: ignore[arg-type]
        else:
            yield f"| `{key}` | {describe(kind)} | {_default(f, key)} | {_text(helps.get(f.name, ''))} |"
    yield ""
    first: dict[type, str] = {}
    for inner, key in nested:
        if inner in first:
            yield f"## `{key}`\n\nThe keys of `{first[inner]}`.\n"
        else:
            yield from _section(inner, f"{key}.", f"`{key}`")
        first.setdefault(inner, key)


def _default(field: Field[Any], key: str) -> str:
    if key in DERIVED:
        return f"`{DERIVED[key].removeprefix('${').removesuffix('}')}`"
    value = field.default if field.default_factory is MISSING else field.default_factory()
    if value == NOT_SET:
        return "to be set"
    if value is None:
        return "null"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _helps(cls: type) -> dict[str, str]:
    """The string under each field."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    out = {}
    for field, after in zip(tree.body, tree.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            out[field.target.id] = str(after.value.value)
    return out


def _text(help_text: str) -> str:
    """One line of Markdown, without references to sections that a user does not have."""
    line = re.sub(r" ?\((?:the )?SPEC [^)]*\)", "", " ".join(help_text.split()))
    return line.replace("``", "`").replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(recipe_page())
