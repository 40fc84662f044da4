"""A training run's progress: a bar on a terminal, plain lines in a log file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from verl_ext.run.progress import Callback
from verl_ext.run.run_files import STOPPING

if TYPE_CHECKING:
    from rich.console import Console

LINE_EVERY = 10.0
"""Seconds between two plain lines, at least."""


class StepClock:
    """Time left, from the pace since the first step that was seen (a continued run begins in the middle)."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._first: tuple[int, float] | None = None

    def left(self, done: int, total: int) -> str:
        """In words; empty while it is not known. Step 0 does not count: before it, processes start."""
        if done == 0:
            return ""
        if self._first is None or done < self._first[0]:
            self._first = (done, self._now())
        steps = done - self._first[0]
        if steps == 0 or total <= done:
            return ""
        return f"{duration((total - done) * (self._now() - self._first[1]) / steps)} left"


def duration(seconds: float) -> str:
    """``42 s``, ``7 min``, ``3 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


@contextmanager
def training_progress(console: Console) -> Iterator[Callback]:
    """A callback ``(step, steps, what)``; ``steps`` is 0 while nobody knows them.

    A second line of ``what`` (where the step's time went) stands under the bar, or behind the first in plain lines.
    """
    if not console.is_terminal:
        yield PlainLines(lambda line: console.print(line, highlight=False, soft_wrap=True))
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.text import Text

    class Bar(Progress):
        under = ""

        def get_renderables(self) -> Iterator[Any]:
            yield from super().get_renderables()
            yield Text(self.under, style="dim", no_wrap=True, overflow="ellipsis")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    clock = StepClock()
    with Bar(*columns, TextColumn("{task.fields[left]}"), console=console, transient=True) as bars:
        task = bars.add_task("", total=None, left="")

        def update(done: int, total: int, what: str) -> None:
            first, _, bars.under = what.partition("\n")
            bars.update(task, completed=done, total=total or None, description=first, left=clock.left(done, total))

        yield update


class PlainLines:
    """A line for the first step, the last one and a wish to stop; for steps between every ``LINE_EVERY`` seconds."""

    def __init__(self, say: Callable[[str], None], now: Callable[[], float] = time.monotonic) -> None:
        self._say, self._now = say, now
        self._clock = StepClock(now)
        self._said: tuple[int, str] | None = None
        self._at = 0.0

    def __call__(self, done: int, total: int, what: str) -> None:
        left = self._clock.left(done, total) if what != STOPPING else ""
        before = self._said[0] if self._said else 0
        at_once = before == 0 or done in (before, total) or what == STOPPING
        said_already = self._said == (done, what) or (self._said and self._said[1] == what == STOPPING)
        if said_already or not (at_once or self._now() - self._at >= LINE_EVERY):
            return
        self._said, self._at = (done, what), self._now()
        step = f"step {done}/{total}" if total else f"step {done}" if done else ""
        self._say(" | ".join(part for part in (step, *what.splitlines(), left) if part))
