"""Run a training process, show where it is, and stop it without losing work.

The process writes its output to ``train.log``. Ctrl-C (or SIGTERM) asks it, by a file, to finish its step and save; a
second one ends it at once. Nothing is left behind in either case.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rollout.errors import RecipeError, WorkerError
from verl_ext.run_files import (
    LIVE_METRICS,
    METRICS,
    STOP_FILE,
    Progress,
    Watched,
    fold_metrics,
    forget_total,
    read_metrics,
    scalar,
    stop_requested,
)

__all__ = [
    "LIVE_METRICS",
    "METRICS",
    "STOPPED_EARLY",
    "STOP_FILE",
    "WORKER_DIED",
    "Progress",
    "fold_metrics",
    "last_words",
    "read_metrics",
    "scalar",
    "stop_requested",
    "supervise",
]

LOCK_FILE = ".lock"
WORKER_DIED = "a worker died, the run stops"
"""The watchdog's words, by which its sentence is found in the log."""
STOPPED_EARLY = 3
"""Exit code of a process that saved and stopped because it was asked to."""
PR_SET_PDEATHSIG = 1


def supervise(
    command: Sequence[str],
    env: Mapping[str, str],
    out: Path,
    total: int | None = None,
    progress: Progress | None = None,
    describe: Callable[[Mapping[str, Any]], str] = lambda metrics: "",
    poll_seconds: float = 0.5,
) -> bool:
    """Run ``command`` until it ends; True if it finished, False if it stopped early on request.

    Args:
        out: the run's folder: log, metrics and stop file.
        total: steps, for ``progress``; None until the process has announced them.
        describe: a few words from the newest metrics, shown beside the bar.

    Raises:
        WorkerError: the process failed; the message carries what it said last.
        RecipeError: another training process is at work in ``out``.
    """
    out.mkdir(parents=True, exist_ok=True)
    with _alone_in(out):
        (out / STOP_FILE).unlink(missing_ok=True)
        forget_total(out)
        fold_metrics(out)
        watched = Watched(out, total, progress, describe)
        with (out / "train.log").open("ab") as log:
            begun = log.tell()
            process = subprocess.Popen(
                list(command),
                env=dict(env),
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
            try:
                with _signals_ask_to_stop(out, process):
                    while process.poll() is None:
                        watched.report()
                        try:
                            process.wait(timeout=poll_seconds)
                        except subprocess.TimeoutExpired:
                            continue
            finally:  # also if whoever shows the progress fails: a run without its supervisor must not go on
                if process.poll() is None:
                    process.terminate()
                    _wait_or_kill(process)
                _end_session(process.pid)
        watched.report()
        fold_metrics(out)
        stopped = stop_requested(out)
        (out / STOP_FILE).unlink(missing_ok=True)
    if process.returncode not in (0, STOPPED_EARLY):
        how = f"signal {-process.returncode}" if process.returncode < 0 else f"exit code {process.returncode}"
        raise WorkerError(f"training failed ({how}). {last_words(out / 'train.log', since=begun)}")
    return not stopped


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
def _alone_in(out: Path) -> Iterator[None]:
    """Two runs in one folder would mix their checkpoints and metrics."""
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


def _die_with_parent() -> None:
    """In the child: be told to end if the supervisor is killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait_or_kill(process: subprocess.Popen[bytes], seconds: float = 30.0) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end_session(session: int) -> None:
    """End whatever the process left in its session (workers of a crashed run)."""
    try:
        os.killpg(session, signal.SIGTERM)
    except ProcessLookupError:
        return


@contextmanager
def _signals_ask_to_stop(out: Path, process: subprocess.Popen[bytes]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: Any) -> None:
        if stop_requested(out):
            process.terminate()
        else:
            (out / STOP_FILE).touch()

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
