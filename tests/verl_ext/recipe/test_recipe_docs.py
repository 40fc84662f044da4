"""The page of recipe keys is the schema's."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args

import pytest

from verl_ext.recipe import Recipe
from verl_ext.recipe.convert import field_types
from verl_ext.recipe.docs import recipe_page

PAGE = Path(__file__).parents[3] / "docs" / "recipes.md"


def keys(cls: type, path: str = "") -> list[str]:
    out: list[str] = []
    for f in fields(cls):
        kind: Any = field_types(cls)[f.name]
        inner = next((a for a in (kind, *get_args(kind)) if is_dataclass(a)), None)
        many = "[]" if inner is not None and inner is not kind else ""
        out += [f"{path}{f.name}"] if inner is None else keys(inner, f"{path}{f.name}{many}.")  # type: ignore[arg-type]
    return out


def test_the_committed_page_is_up_to_date() -> None:
    assert PAGE.read_text() == recipe_page(), "run: python -m verl_ext.recipe.docs > docs/recipes.md"


def test_every_key_has_a_row_with_an_explanation() -> None:
    rows = {line.split("|")[1].strip(" `"): line for line in recipe_page().splitlines() if line.startswith("| `")}
    wanted = [k for k in keys(Recipe) if not k.startswith("val[]")]  # said to be those of data[]
    assert list(rows) and set(rows) == set(wanted)
    assert not [key for key, row in rows.items() if len(row.split("|")[4].strip()) < 5]


def test_every_default_is_the_recipes_own() -> None:
    """A section may be used twice with other defaults (rollout.budgets, rollout.eval.budgets)."""
    for line in recipe_page().splitlines():
        if line.startswith("| `") and "[]" not in line.split("|")[1]:
            key, _, default = (cell.strip() for cell in line.split("|")[1:4])
            value: Any = Recipe()
            for part in key.strip("`").split("."):
                value = getattr(value, part)
            if default not in ("to be set", "`trainer.prompts_per_step`", "`rollout.engine.max_model_len`"):
                written = "null" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"
                assert default == written, key


@pytest.mark.parametrize("word", ["SPEC", "``", "???"])
def test_nothing_of_the_source_shows_through(word: str) -> None:
    assert word not in recipe_page()
