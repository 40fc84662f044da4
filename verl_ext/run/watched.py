"""A run as its supervisor sees it: the step that it is at, its newest numbers, and what is wrong with them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from verl_ext.run.not_finite import skipped_updates, step_in_words
from verl_ext.run.run_files import LIVE_METRICS, STARTING, STOPPING, TOTAL_FILE, rows_of, stop_requested

logger = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]


class Watched:
    """Follows the live metrics of a run, each line read once."""

    def __init__(
        self, out: Path, total: int | None, progress: Progress | None, describe: Callable[[Mapping[str, Any]], str]
    ) -> None:
        self._out, self._total, self._progress, self._describe = out, total, progress, describe
        self._read, self._step = 0, 0
        self._newest: dict[str, Any] = {}
        self._skipped = 0

    def report(self) -> None:
        self._follow()
        if self._progress is None:
            return
        words = self._describe(self._newest) if self._newest else STARTING
        if self._skipped:
            first, line, rest = words.partition("\n")
            words = f"{first}, skipped updates: {self._skipped}{line}{rest}"
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
        for row in rows_of(whole):
            self._step = int(row["step"])
            self._newest.update(row["data"])
            self._skipped += skipped_updates(row["data"])
            if said := step_in_words(self._step, row["data"]):
                logger.warning("%s", said)

    def _steps(self) -> int | None:
        file = self._out / TOTAL_FILE
        if file.exists():
            self._total = int(json.loads(file.read_text())["total"])
        return self._total
