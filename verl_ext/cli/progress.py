"""Rich bars for the ``progress(done, total, what)`` callbacks of the pure packages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

Callback = Callable[[int, int, str], None]


@contextmanager
def progress_bar(console: Console) -> Iterator[Callback]:
    """A bar that shows what is being done; it is taken away when the work is over."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("", total=None)

        def update(done: int, total: int, what: str) -> None:
            bars.update(task, completed=done, total=total, description=what)

        yield update
