"""Ask a run to finish its step, save and end, from any machine that sees its folder."""

from __future__ import annotations

import time
from pathlib import Path

from rollout.errors import RecipeError
from verl_ext.run.run_files import RESULT_FILE, STOP_FILE, run_finished

LOG = "train.log"
LOOK_EVERY = 1.0


def ask_to_stop(output_dir: str | Path, wait_seconds: float = 0.0) -> bool:
    """Leave the stop file in ``output_dir``; whether the run there has ended by now, or within ``wait_seconds``.

    A run that has ended already is left as it is. One that was asked takes the file away when nothing is left to do:
    its training process writes `RESULT_FILE` some seconds before that, and a run that fails never does.

    Raises:
        RecipeError: no run was ever started there.
    """
    out = Path(output_dir)
    if not (out / LOG).is_file():
        raise RecipeError(f"{out}: no run was started there ({LOG} is missing); give the run's output_dir")
    stop = out / STOP_FILE
    if not stop.exists():
        if has_ended(out):
            return True
        stop.touch()
    end = time.monotonic() + wait_seconds
    while stop.exists() and time.monotonic() < end:
        time.sleep(LOOK_EVERY)
    return not stop.exists()


def has_ended(out: Path) -> bool:
    """Whether the newest run in ``out`` has said how it ended; a run that failed has not."""
    return (out / RESULT_FILE).is_file()


def how_it_ended(out: Path) -> str:
    """In words; empty while nothing was said."""
    if not has_ended(out):
        return ""
    return "finished" if run_finished(out) else "stopped on request, a checkpoint is kept"
