"""Run a training process, show where it is, and stop it without losing work.

The process writes its output to ``train.log``. Ctrl-C (or SIGTERM) asks it, by a file, to finish its step and save; a
second one ends it at once (two SIGTERMs within two seconds are one). Nothing is left behind in either case. SIGTERM to
the process itself, or to all of a run's processes together, means the same: see :mod:`verl_ext.run.process`.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rollout.errors import RecipeError, WorkerError
from rollout.orphans import die_with_parent
from verl_ext.run.process import Wish, end_all_below
from verl_ext.run.run_files import (
    LIVE_METRICS,
    METRICS,
    RESULT_FILE,
    STOP_FILE,
    STOP_NOW,
    asked_to_stop,
    fold_metrics,
    forget_last_run,
    read_metrics,
    run_finished,
    scalar,
    stop_requested,
    write_result,
)
from verl_ext.run.watched import Progress, Watched

__all__ = [
    "LIVE_METRICS",
    "METRICS",
    "STOP_FILE",
    "WORKER_DIED",
    "Progress",
    "alone_in",
    "asked_to_stop",
    "fold_metrics",
    "last_words",
    "read_metrics",
    "run_finished",
    "scalar",
    "stop_requested",
    "supervise",
]

LOCK_FILE = ".lock"
WORKER_DIED = "a worker died, the run stops"
"""The watchdog's words, by which its sentence is found in the log."""
RESULT_SECONDS = 30.0
"""How long a further node waits for the shared file that says how the run ended."""
GRACE_SECONDS = 30.0
"""For a process that was ordered to end."""
LEFT_SECONDS = 2.0
"""For what it left behind."""


def supervise(
    command: Sequence[str],
    env: Mapping[str, str],
    out: Path,
    total: int | None = None,
    progress: Progress | None = None,
    describe: Callable[[Mapping[str, Any]], str] = lambda metrics: "",
    poll_seconds: float = 0.5,
    run_dir: Path | None = None,
) -> bool:
    """Run ``command`` until it ends; True if it took its last step, False if it stopped early on request.

    A request that came too late to shorten the run leaves it finished, and :func:`asked_to_stop` tells of it. Hold
    :func:`alone_in` the folder meanwhile.

    Args:
        out: where this machine's process writes its log.
        total: steps, for ``progress``; None until the process has announced them.
        describe: a few words from the newest metrics, shown beside the bar.
        run_dir: where the whole run keeps its metrics, its stop file and its result, if that is another folder: this
            is then a further machine of the run, which asks there for the stop and clears nothing away.

    Raises:
        WorkerError: the process failed, or ended without saying how; the message carries what it said last.
    """
    leads, run_dir = run_dir is None or run_dir == out, run_dir or out
    out.mkdir(parents=True, exist_ok=True)
    if leads:
        forget_last_run(out)
        fold_metrics(out)
    watched = Watched(run_dir, total, progress, describe)
    with (out / "train.log").open("ab") as log:
        begun = log.tell()
        process = subprocess.Popen(
            list(command),
            env=dict(env),
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=partial(die_with_parent, signal.SIGTERM),
        )
        try:
            with _signals_ask_to_stop(run_dir, process) as asked:
                while process.poll() is None:
                    watched.report()
                    if asked.end_by is not None and time.monotonic() > asked.end_by:
                        break
                    try:
                        process.wait(timeout=poll_seconds)
                    except subprocess.TimeoutExpired:
                        continue
        finally:  # also if whoever shows the progress fails: a run without its supervisor must not go on
            if process.poll() is None:
                _order_to_end(run_dir, process)
                _wait_or_kill(process)
            _end_session(process.pid)
    watched.report()
    if leads:
        fold_metrics(out)
    return _ended(process.returncode, run_dir, leads, out / "train.log", begun)


def _ended(code: int, run_dir: Path, leads: bool, log: Path, begun: int) -> bool:
    """Whether the run finished, by what it wrote; a wish to stop is kept there and its file taken away."""
    asked = stop_requested(run_dir)
    try:
        if code != 0:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise WorkerError(f"training failed ({how}). {last_words(log, since=begun)}")
        deadline = time.monotonic() + (0.0 if leads else RESULT_SECONDS)  # a shared disk shows a new file with a delay
        while not (run_dir / RESULT_FILE).is_file():
            if time.monotonic() > deadline:
                raise WorkerError(f"training ended without {run_dir / RESULT_FILE}. {last_words(log, since=begun)}")
            time.sleep(0.5)
        finished = run_finished(run_dir)
        if leads and asked:
            write_result(run_dir, finished, asked_to_stop=True)
        return finished
    finally:
        if leads:  # last: that it is gone tells whoever asked that the run has ended
            (run_dir / STOP_FILE).unlink(missing_ok=True)


def last_words(log: Path, lines: int = 30, since: int = 0) -> str:
    """What a log says of its end: the last traceback or the last lines, after the watchdog's sentence if there is one.

    ``since``: where in the file the run began, in bytes.
    """
    with log.open("rb") as f:
        f.seek(since)
        text = f.read().decode(errors="replace").splitlines()
    text = [line for line in text if "torch/distributed/elastic" not in line and "ChildFailedError" not in line]
    starts = [i for i, line in enumerate(text) if "Traceback (most recent call last)" in line]
    tail = text[starts[-1] :][-lines:] if starts else text[-lines:]
    found = [line for line in text if WORKER_DIED in line][-1:]
    return f"The end of {log}:\n" + "\n".join(line[:300] for line in [*found, *tail])


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Keep other runs out of ``out``: two in one folder would mix their checkpoints and metrics.

    Raises:
        RecipeError: another training process is at work there.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / LOCK_FILE).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise RecipeError(
                f"output_dir: another training process is at work in {out}; wait for it, or give another output_dir"
            ) from e
        except OSError:  # a file system without locks
            pass
        yield


def _order_to_end(run_dir: Path, process: subprocess.Popen[bytes]) -> None:
    """Not a wish: the process and all below it end without another step."""
    (run_dir / STOP_FILE).write_text(STOP_NOW)
    process.terminate()


def _wait_or_kill(process: subprocess.Popen[bytes], seconds: float = GRACE_SECONDS) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        end_all_below(process.pid)
        process.kill()
        process.wait()


def _end_session(session: int) -> None:
    """End whatever the process left in its session (workers of a crashed run, which have SIGTERM blocked)."""
    deadline = time.monotonic() + LEFT_SECONDS
    try:
        os.killpg(session, signal.SIGTERM)
        while time.monotonic() < deadline:
            time.sleep(0.05)
            os.killpg(session, 0)
        os.killpg(session, signal.SIGKILL)
    except ProcessLookupError:
        return


@dataclass
class _Asked:
    end_by: float | None = None
    """When patience with a process that was ordered to end is over; None if it was not."""


@contextmanager
def _signals_ask_to_stop(run_dir: Path, process: subprocess.Popen[bytes]) -> Iterator[_Asked]:
    asked = _Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    # ours alone: a launcher may signal all machines of a run at once, and the file is theirs together
    wish, wished = Wish(), False

    def ask(number: int, frame: Any) -> None:
        nonlocal wished
        same = wish.is_new() and number == signal.SIGTERM
        if wished and not same:
            _order_to_end(run_dir, process)
            asked.end_by = time.monotonic() + GRACE_SECONDS
            return
        wished = True
        (run_dir / STOP_FILE).touch()

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
