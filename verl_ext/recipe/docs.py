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
from dataclasses import fields, is_dataclass
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
    return "\n".join([HEAD, *_section(Recipe(), "", "The run")])


def _section(values: Any, path: str, title: str) -> Iterator[str]:
    """A table of the section's own keys with the defaults that ``values`` holds, then its sub-sections."""
    cls: type = type(values)
    helps, kinds = _helps(cls), field_types(cls)
    nested: list[tuple[Any, str]] = []
    yield f"## {title}\n"
    yield f"{_text(inspect.getdoc(cls) or '')}\n"
    yield "| key | type | default | what |"
    yield "|---|---|---|---|"
    for f in fields(cls):
        kind = kinds[f.name]
        inner = get_args(kind)[0] if get_origin(kind) is list else kind
        key = f"{path}{f.name}"
        if is_dataclass(inner):
            one = inner() if inner is not kind else getattr(values, f.name)  # type: ignore[operator]
            nested.append((one, f"{key}[]" if inner is not kind else key))
        else:
            default = _default(getattr(values, f.name), key)
            yield f"| `{key}` | {describe(kind)} | {default} | {_text(helps.get(f.name, ''))} |"
    yield ""
    first: list[tuple[Any, str]] = []
    for inner, key in nested:
        same = next((before for known, before in first if known == inner), None)
        if same is None:
            yield from _section(inner, f"{key}.", f"`{key}`")
            first.append((inner, key))
        else:
            yield f"## `{key}`\n\nThe keys of `{same}`.\n"


def _default(value: Any, key: str) -> str:
    if key in DERIVED:
        return f"`{DERIVED[key].removeprefix('${').removesuffix('}')}`"
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
