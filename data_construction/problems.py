"""One thing that is wrong in a data set, with the place where it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from rollout.errors import DataError

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what is being done)."""


@dataclass(frozen=True)
class Problem:
    """``code`` is a short stable word for counting; the other fields say where, what, and what to do."""

    code: str
    file: str
    what: str
    clip: str = ""
    frame: str = ""
    """Frame name, with its index where that helps."""
    item: str = ""
    """Expression or annotation id, as ``expression 3`` or ``annotation 17``."""
    remedy: str = ""

    def __str__(self) -> str:
        place = [f"clip {self.clip}" if self.clip else "", self.item, f"frame {self.frame}" if self.frame else ""]
        where = ", ".join(p for p in place if p)
        return f"{self.file}: {where + ': ' if where else ''}{self.what}{'; ' + self.remedy if self.remedy else ''}"

    def error(self) -> BadDataError:
        """The exception to raise where this problem must stop the work."""
        return BadDataError(self)

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


class BadDataError(DataError):
    """A DataError that still knows its ``problem``, for callers that count or collect."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"[{problem.code}] {problem}")
        self.problem = problem

    def __reduce__(self) -> tuple[type[BadDataError], tuple[Problem]]:
        return BadDataError, (self.problem,)


def problem_of(error: DataError, file: str, code: str, clip: str = "") -> Problem:
    """The problem that an error carries, or one made of its text."""
    if isinstance(error, BadDataError):
        return error.problem
    return Problem(code, file, str(error).removeprefix(f"{file}: "), clip)
