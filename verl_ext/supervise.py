"""Run a training process, show where it is, and stop it without losing work.

The process writes its output to ``train.log``. Ctrl-C (or SIGTERM) asks it, by a file, to finish its step and save; a
second one ends it at once. Nothing is left behind in either case.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rollout.errors import WorkerError

Progress = Callable[[int, int, str], None]

STOP_FILE = "STOP"
"""In ``output_dir``: its presence asks a training process to save and stop."""
LIVE_METRICS, METRICS = "metrics.live.jsonl", "metrics.jsonl"
STOPPED_EARLY = 3
"""Exit code of a process that saved and stopped because it was asked to."""
PR_SET_PDEATHSIG = 1


def stop_requested(out: str | Path) -> bool:
    return (Path(out) / STOP_FILE).exists()


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
        total: steps, for ``progress``.
        describe: a few words from a step's metrics, shown beside the bar.

    Raises:
        WorkerError: the process failed; the message carries what it said last.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / STOP_FILE).unlink(missing_ok=True)
    fold_metrics(out)
    with (out / "train.log").open("ab") as log:
        process = subprocess.Popen(
            list(command), env=dict(env), stdout=log, stderr=log, start_new_session=True, preexec_fn=_die_with_parent
        )
        with _signals_ask_to_stop(out, process):
            while process.poll() is None:
                if progress is not None:
                    _report(out, total, progress, describe)
                try:
                    process.wait(timeout=poll_seconds)
                except subprocess.TimeoutExpired:
                    continue
        _end_session(process.pid)
    if progress is not None:
        _report(out, total, progress, describe)
    fold_metrics(out)
    stopped = stop_requested(out)
    (out / STOP_FILE).unlink(missing_ok=True)
    if process.returncode not in (0, STOPPED_EARLY):
        how = f"signal {-process.returncode}" if process.returncode < 0 else f"exit code {process.returncode}"
        raise WorkerError(f"training failed ({how}). {last_words(out / 'train.log')}")
    return not stopped


def last_words(log: Path, lines: int = 30) -> str:
    """The last traceback of a log, or its last lines, with the file's name."""
    text = log.read_text(errors="replace").splitlines()
    text = [line for line in text if "torch/distributed/elastic" not in line and "ChildFailedError" not in line]
    starts = [i for i, line in enumerate(text) if "Traceback (most recent call last)" in line]
    tail = text[starts[-1] :][-lines:] if starts else text[-lines:]
    return f"The end of {log}:\n" + "\n".join(line[:300] for line in tail)


def fold_metrics(out: Path) -> None:
    """Merge the live metrics into ``metrics.jsonl``; a resumed run's values replace those of steps it did again."""
    live = out / LIVE_METRICS
    if not live.exists():
        return
    rows: dict[int, dict[str, Any]] = {}
    for row in [*read_metrics(out / METRICS), *read_metrics(live)]:
        rows.setdefault(row["step"], {}).update(row["data"])
    scratch = out / f".{METRICS}"
    scratch.write_text("".join(json.dumps({"step": n, "data": rows[n]}) + "\n" for n in sorted(rows)))
    os.replace(scratch, out / METRICS)
    live.unlink()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """``{"step", "data"}`` per line; a torn last line is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_bytes().split(b"\n"):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def scalar(value: Any) -> float | None:
    """A metric as verl logs it: a number, or a number in nested lists."""
    while isinstance(value, list) and value:
        value = value[-1]
    return float(value) if isinstance(value, (int, float)) else None


def _report(out: Path, total: int | None, progress: Progress, describe: Callable[[Mapping[str, Any]], str]) -> None:
    rows = read_metrics(out / LIVE_METRICS)
    if rows:
        progress(int(rows[-1]["step"]), total or 0, describe(rows[-1]["data"]))


def _die_with_parent() -> None:
    """In the child: be told to end if the supervisor is killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


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
