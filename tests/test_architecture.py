"""``docs/architecture.md`` says what is so: the picture is that of the imports, every file that it names is there."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import script_of_docs

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
NAMED = r"`((?:rollout|rewards|eval|verl_ext|data_construction|docs)/[\w/.*]+(?:\.\w+|/|\*))`"


@pytest.fixture(scope="module")
def rooms() -> ModuleType:
    return script_of_docs("rooms")


def test_the_picture_is_that_of_the_imports(rooms: ModuleType) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert rooms.page(text) == text, "run `python docs/rooms.py`"
    assert "verl_ext.reinforce --> verl_ext.engine" in rooms.picture()


def test_every_file_that_a_page_names_is_there() -> None:
    pages = ("architecture", "design", "submission", "cluster", "jf_speed", "SPEC")
    for page in (*(ROOT / "docs" / f"{name}.md" for name in pages), ROOT / "README.md"):
        named = re.findall(NAMED, page.read_text(encoding="utf-8"))
        lost = [name for name in named if not list(ROOT.glob(name.rstrip("/")))]
        assert not lost, f"{page.name} names {lost}"


def test_each_room_says_what_it_owns() -> None:
    """A room's first words are its docstring: what it holds, what it may import."""
    for folder in ("eval", "verl_ext"):
        for room in (ROOT / folder).iterdir():
            init = room / "__init__.py"
            if room.is_dir() and list(room.glob("*.py")):
                assert init.is_file() and len(init.read_text().splitlines()) >= 1, room
                assert init.read_text().startswith('"""'), room
