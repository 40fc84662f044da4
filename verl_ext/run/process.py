"""A process of a training run that takes SIGTERM for a wish (``python -m verl_ext.run.process MODULE [ARG...]``).

Schedulers send TERM to every process of a job: Slurm to a step, ``ray job stop`` to a job, systemd to a unit. Whoever
ends by it takes the steps since the last save along. So the module's ``main`` runs with TERM blocked, which all that it
starts inherits (Ray's daemons and workers, torchrun's, vLLM's, loaders), and a thread waits for the signal instead:

- the first TERM asks the run to stop, by the file that its supervisor writes as well;
- another within ``TOGETHER`` seconds is the same wish, told twice;
- a later one ends this process and all below it at once. So does the end of the parent, whom nobody could ask any more.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

from verl_ext.run.run_files import STOP_FILE, STOP_NOW

RUN_DIR_ENV = "VIDEOSEG_RUN_DIR"
"""The run's ``output_dir``."""
TORCHRUN_ENV = "TORCHELASTIC_RUN_ID"
TOGETHER = 2.0
"""Seconds within which several TERMs are one wish."""
LOOK_EVERY = 1.0
EXIT_TERMINATED = 128 + signal.SIGTERM


class Wish:
    """What a signal means: whether there was one before, and how long ago."""

    def __init__(self) -> None:
        self._at: float | None = None

    def is_new(self, now: float | None = None) -> bool:
        """Whether this is the first signal, or the same wish once more; False asks to end at once."""
        now = time.monotonic() if now is None else now
        self._at = now if self._at is None else self._at
        return now - self._at < TOGETHER


def hold_term() -> None:
    """From now on TERM does not end this process. Call it in the main thread, before anything else is started."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_listen, args=(os.getppid(),), daemon=True, name="term").start()


def _listen(parent: int) -> None:
    wish, run_dir = Wish(), os.environ.get(RUN_DIR_ENV)
    stop = Path(run_dir) / STOP_FILE if run_dir else None
    while os.getppid() == parent:
        found = signal.sigtimedwait({signal.SIGTERM}, LOOK_EVERY)
        if found is None or os.getppid() != parent:
            continue
        # torchrun gets no TERM itself; if it sends one, another of its workers has failed
        if (found.si_pid == parent and TORCHRUN_ENV in os.environ) or not wish.is_new() or _now(stop):
            break
        if stop is not None:
            stop.touch()
    end_all_below(os.getpid())
    os._exit(EXIT_TERMINATED)


def _now(stop: Path | None) -> bool:
    """Whether the supervisor has been asked twice."""
    try:
        return stop is not None and stop.read_text() == STOP_NOW
    except OSError:
        return False


def end_all_below(pid: int) -> None:
    """Kill every descendant of a process: they have TERM blocked."""
    import psutil

    try:
        found = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return
    for child in found:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue


def main() -> None:
    """Run ``main`` of the module that is named first; it sees the arguments behind its name."""
    name = sys.argv.pop(1)
    hold_term()
    try:
        importlib.import_module(name).main()
    finally:
        for child in multiprocessing.active_children():  # at exit Python would ask them by TERM, and wait for ever
            child.kill()


if __name__ == "__main__":
    main()
