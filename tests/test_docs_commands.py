"""Every command that README, guides and recipes tell is one, with options that it has; every recipe named is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from verl_ext.cli.main import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CHANGELOG.md"]
COMMAND = re.compile(r"^(?:\$ )?(videoseg .*?(?:\\\n.*?)*)(?:\s+#.*)?$", re.MULTILINE)
INLINE = re.compile(r"(?<!`)`(videoseg\s[^`]*)`(?!`)")
LEFT_OUT = re.compile(r"[|.…\[]")
"""Of a shortened command, as in `videoseg train|eval` or `report ...`: only what stands before it is looked at."""


def commands(page: Path) -> list[list[str]]:
    text = page.read_text(encoding="utf-8")
    fences = "\n".join(re.findall(r"```(?:bash|text)?\n(.*?)```", text, re.DOTALL))
    found = [line.replace("\\\n", " ") for line in COMMAND.findall(fences)]
    found += [" ".join(line.split()) for line in INLINE.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL))]
    return [shlex.split(line)[1:] for line in found]


def parse(words: list[str]) -> None:
    """Raises for a command or an option that is not there; values and missing arguments are not looked at."""
    command: Any = get_command(app)
    while hasattr(command, "commands"):
        if not words or (LEFT_OUT.search(words[0]) and command.name != "launch"):
            return
        if words[0] in command.commands:
            command, words = command.commands[words[0]], words[1:]
        elif command.name == "launch":  # launch RECIPE
            command = command.commands["submit"]
        elif not words[0].startswith("-"):
            raise LookupError(f"no such command {words[0]}")
        else:
            break
    whole = [*(word for word in words if word != "..."), "the value of an option that is named alone"]
    command.make_parser(command.context_class(command)).parse_args(whole)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_and_options_are_there(page: Path) -> None:
    told = commands(page)
    assert told or page.stem not in ("README", "cluster", "demo", "viewer", "evaluation")
    for words in told:
        try:
            parse(words)
        except Exception as error:
            pytest.fail(f"{page.name}: videoseg {shlex.join(words)}: {error}")


def test_a_wrong_option_would_be_seen() -> None:
    for wrong in (["launch", "status", "--nope"], ["eval", "--modle", "x"], ["nope"], ["data", "nope"]):
        with pytest.raises(Exception, match=r"(?i)no such"):
            parse(wrong)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_recipes_are_there(page: Path) -> None:
    named = set(re.findall(r"recipes/[\w/*]+\.yaml", page.read_text(encoding="utf-8"))) - {"recipes/mine.yaml"}
    lost = sorted(name for name in named if not list(ROOT.glob(name)))
    assert not lost, f"{page.name} names {lost}"
