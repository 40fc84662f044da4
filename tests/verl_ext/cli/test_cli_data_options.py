"""Options of ``videoseg data synthetic`` that exclude one another, and the bar of long jobs."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress
from typer.testing import CliRunner

from verl_ext.cli.main import app
from verl_ext.run.progress import progress_bar, rate_words


def invoke(*args: Any) -> Any:
    return CliRunner().invoke(app, ["data", *(str(a) for a in args)])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--layout", "mevis", "--train", "3"], "--train"),
        (["--layout", "mevis", "--size", "96"], "--size"),
        (["--layout", "mevis", "--frames", "12", "20"], "--frames"),
        (["--clips", "3"], "--clips"),
    ],
)
def test_an_option_without_effect_is_refused(args: list[str], words: str, tmp_path: Path) -> None:
    result = invoke("synthetic", tmp_path / "x", *args)
    assert result.exit_code == 2 and words in result.stderr and "--layout" in result.stderr
    assert not (tmp_path / "x").exists()


def test_a_layout_takes_its_own_options(tmp_path: Path) -> None:
    result = invoke("synthetic", tmp_path / "x", "--layout", "reasonseg", "--clips", "1", "--seed", "3")
    assert result.exit_code == 0 and (tmp_path / "x").is_dir()


def test_the_groups_help_names_what_it_holds() -> None:
    text = " ".join(CliRunner().invoke(app, ["data", "--help"]).output.split())
    assert "sample" in text.partition("Commands")[0] and "traces" in text.partition("Commands")[0]


def shown(pace: bool, steps: list[tuple[int, int, str]], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the bar's line says after each step, a second apart."""
    clock, bars, texts = [0.0], [], []
    plain = Progress.__init__

    def init(self: Progress, *columns: Any, **options: Any) -> None:
        plain(self, *columns, **options, auto_refresh=False, get_time=lambda: clock[0])
        bars.append(self)

    monkeypatch.setattr(Progress, "__init__", init)
    with progress_bar(Console(file=io.StringIO(), width=120, force_terminal=True), pace=pace) as update:
        for step in steps:
            clock[0] += 1.0
            update(*step)
            out = io.StringIO()
            Console(file=out, width=120).print(bars[0].get_renderable())
            texts.append(out.getvalue())
    return texts


def test_the_bar_says_rate_and_time_left_of_the_work_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [(n, 40, "reading") for n in range(0, 21, 4)] + [(0, 10, "scoring"), (1, 10, "scoring")]
    texts = shown(True, steps, monkeypatch)
    assert "reading" in texts[5] and "4.0/s" in texts[5] and "0:00:05 left" in " ".join(texts[5].split())
    assert "scoring" in texts[6] and "/s" not in texts[6]  # The pace of reading says nothing of scoring.
    assert "scoring" in texts[7] and "1/10" in texts[7]


def test_a_bar_without_pace_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = shown(False, [(4, 40, "a"), (8, 40, "3.0/s, 9 s left")], monkeypatch)
    assert "8/40" in texts[1] and texts[1].count("left") == 1


def test_rates_in_words() -> None:
    assert (rate_words(None), rate_words(0.0)) == ("", "")
    assert (rate_words(12.34), rate_words(0.5)) == ("12.3/s", "30.0/min")
