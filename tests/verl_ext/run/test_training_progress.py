"""What a user sees of a run: a bar on a terminal, few plain lines elsewhere, and an honest time left."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from verl_ext.cli.phase_table import print_phases
from verl_ext.reinforce.run import _describe
from verl_ext.run.phases import step_seconds
from verl_ext.run.run_files import METRICS, STARTING, STOPPING
from verl_ext.run.training_progress import PlainLines, StepClock, duration, training_progress


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3570, "1 h 00 min"), (11100, "3 h 05 min")]
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_time_left_follows_the_pace_since_the_first_step_seen() -> None:
    now = Clock()
    clock = StepClock(now)
    assert clock.left(0, 0) == "" and clock.left(0, 100) == "" and clock.left(40, 100) == ""  # continued at step 40
    now.seconds = 30.0
    assert clock.left(41, 100) == "30 min left"  # 59 steps of 30 s, rounded to whole minutes
    now.seconds = 100.0
    assert clock.left(50, 100) == "8 min left"
    assert clock.left(100, 100) == ""


def test_plain_lines_are_few_and_say_what_matters() -> None:
    now = Clock()
    said: list[str] = []
    lines = PlainLines(said.append, now)
    lines(0, 0, STARTING)
    lines(0, 0, STARTING)
    now.seconds = 60.0
    for step in range(1, 31):  # a step a second
        lines(step, 100, f"reward {step}.0")
        now.seconds += 1.0
    lines(31, 100, STOPPING)
    lines(32, 100, STOPPING)
    steps = [line.split(" ")[1] for line in said[1:]]
    assert said[0] == STARTING
    assert steps == ["1/100", "11/100", "21/100", "31/100"]
    assert said[2].startswith("step 11/100 | reward 11.0 | ") and said[2].endswith("left")
    assert said[-1] == f"step 31/100 | {STOPPING}"


def test_the_last_step_is_always_told() -> None:
    said: list[str] = []
    lines = PlainLines(said.append, Clock())
    for step in range(6):
        lines(step, 5, "loss 1.000")
    assert [line.split(" |")[0] for line in said] == ["step 0/5", "step 1/5", "step 5/5"]


@pytest.mark.parametrize("terminal", [True, False])
def test_where_a_steps_time_went_stands_beside_its_reward(terminal: bool) -> None:
    out = io.StringIO()
    step = {"timing_s/step": 9.0, "timing_s/gen": 4.0, "timing_s/old_log_prob": 3.0, "timing_s/pool": 1.0}
    words = _describe({"reward/mean": 2.5, **step, "timing_s/update_weights": 0.25, "timing_s/update_pool": 0.5})
    assert words == "reward 2.50\n9.0 s: rollout 4.0, log-probs 2.0, pool 1.0, sync 0.8"
    assert _describe({"reward/mean": 1.5, "reward/veason_format": 0.75}) == "reward 1.50, format 0.75"
    assert _describe({"reward/mean": 1.5, "reward/strict_format": -1.0}) == "reward 1.50, format -1.00"
    with training_progress(Console(file=out, force_terminal=terminal, width=100)) as progress:
        progress(0, 0, STARTING)
        progress(1, 7, words)
    assert "9.0 s: rollout 4.0, log-probs 2.0, pool 1.0, sync 0.8" in out.getvalue()
    assert terminal or "step 1/7 | reward 2.50 | 9.0 s: rollout" in out.getvalue()


def test_a_finished_run_ends_with_a_table_of_its_phases(tmp_path: Path) -> None:
    seconds = [{"timing_s/step": 10.0 * n, "timing_s/gen": 4.0 * n, "timing_s/save_checkpoint": 2.0} for n in (9, 1, 1)]
    rows = [{"step": 0, "data": {"val/jf": 1.0}}, *({"step": n, "data": s} for n, s in enumerate(seconds, 1))]
    (tmp_path / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert step_seconds(rows) == {"rollout": 4.0, "step": 8.0}  # without the first step, and what saving took
    out = io.StringIO()
    print_phases(tmp_path, Console(file=out, width=100))
    assert "median of 2" in out.getvalue() and "50%" in out.getvalue() and "whole step" in out.getvalue()
    silent = io.StringIO()
    print_phases(tmp_path / "nothing", Console(file=silent))
    assert silent.getvalue() == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_both_kinds_of_output_name_step_and_reward(terminal: bool) -> None:
    out = io.StringIO()
    with training_progress(Console(file=out, force_terminal=terminal, width=100)) as progress:
        progress(0, 0, STARTING)
        progress(1, 7, "reward 2.50")
    text = out.getvalue()
    assert "1/7" in text and "reward 2.50" in text
    assert ("\x1b" in text) == terminal
