"""Rich bars for the ``progress(done, total, what)`` callbacks of the pure packages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

Callback = Callable[[int, int, str], None]


@contextmanager
def progress_bar(console: Console, pace: bool = False) -> Iterator[Callback]:
    """A bar that shows what is being done, in its first line's words; it is taken away when the work is over.

    pace: also rate and time left, for callbacks that do not say them in their words.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    paced = (TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("left")) if pace else ()
    with Progress(*columns, *paced, console=console, transient=True) as bars:
        task = bars.add_task("", total=None, rate="")

        def update(done: int, total: int, what: str) -> None:
            now, what = bars.tasks[0], what.partition("\n")[0]
            if pace and (done < now.completed or total != now.total):  # Other work has begun, whose pace is its own.
                bars.reset(task, total=total, completed=done, description=what, rate="")
                return
            bars.update(task, completed=done, total=total, description=what, rate=rate_words(now.speed))

        yield update


def rate_words(speed: float | None) -> str:
    """Steps a second, or a minute where they are fewer; empty as long as nothing is known."""
    if not speed:
        return ""
    return f"{speed:.1f}/s" if speed >= 1 else f"{60 * speed:.1f}/min"
