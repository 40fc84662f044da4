"""What a training process and its supervisor tell each other through ``output_dir``: metrics, steps, a wish to stop."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Progress = Callable[[int, int, str], None]

STOP_FILE = "STOP"
"""In ``output_dir``: its presence asks a training process to save and stop."""
LIVE_METRICS, METRICS = "metrics.live.jsonl", "metrics.jsonl"
TOTAL_FILE = "steps.json"
"""In ``output_dir``: how many steps the run will take, written by the process that knows its data."""
STARTING, STOPPING = "starting processes", "saving and stopping after this step"
"""Shown before the first metrics, and once a stop was asked for."""


def stop_requested(out: str | Path) -> bool:
    return (Path(out) / STOP_FILE).exists()


def announce_total(out: str | Path, steps: int) -> None:
    """Tell the supervisor (and whoever looks) how many steps there will be."""
    scratch = Path(out) / f".{TOTAL_FILE}"
    scratch.write_text(json.dumps({"total": steps}) + "\n")
    os.replace(scratch, Path(out) / TOTAL_FILE)


def forget_total(out: Path) -> None:
    (out / TOTAL_FILE).unlink(missing_ok=True)


class Watched:
    """Follows the live metrics of a run, each line read once."""

    def __init__(
        self, out: Path, total: int | None, progress: Progress | None, describe: Callable[[Mapping[str, Any]], str]
    ) -> None:
        self._out, self._total, self._progress, self._describe = out, total, progress, describe
        self._read, self._step = 0, 0
        self._newest: dict[str, Any] = {}

    def report(self) -> None:
        if self._progress is None:
            return
        self._follow()
        words = self._describe(self._newest) if self._newest else STARTING
        if stop_requested(self._out):
            words = STOPPING
        self._progress(self._step, self._steps() or 0, words)

    def _follow(self) -> None:
        live = self._out / LIVE_METRICS
        if not live.exists():
            return
        with live.open("rb") as f:
            f.seek(self._read)
            new = f.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        for row in _rows(whole):
            self._step = int(row["step"])
            self._newest.update(row["data"])

    def _steps(self) -> int | None:
        file = self._out / TOTAL_FILE
        if file.exists():
            self._total = int(json.loads(file.read_text())["total"])
        return self._total


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
    return _rows(path.read_bytes()) if path.exists() else []


def _rows(text: bytes) -> list[dict[str, Any]]:
    rows = []
    for line in text.split(b"\n"):
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
