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

    def error(self) -> DataError:
        """The exception to raise where this problem must stop the work."""
        return DataError(f"[{self.code}] {self}")

    def to_dict(self) -> dict[str, str]:
        return asdict(self)
