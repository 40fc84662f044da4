"""What a verification found, in numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

UNREADABLE, NO_DATA, DUPLICATE = "unreadable", "no_data", "duplicate"
SET_ASIDE = (UNREADABLE, NO_DATA)
"""Not the writer's fault but a fault of the files."""


@dataclass
class VerifyReport:
    """Counts of the whole folder, earlier jobs included."""

    verified: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    """By the first check that failed."""
    kinds: dict[str, Counter[str]] = field(default_factory=dict)
    """By kind of expression: how many ``verified`` and ``rejected``."""
    to_retry: int = 0
    open: Counter[str] = field(default_factory=Counter)
    """Traces without a verdict, by reason: the judge could not be asked. The next job asks again."""
    first_open: str = ""
    stopped: str = ""
    """Why the job ended before its end; empty if it did not."""
    torn: str = ""
    """The input's torn last line, if there is one."""
    repeated: str = ""
    """The first id that came twice, if one did: only its first trace counts."""
    first_aside: str = ""

    @property
    def total(self) -> int:
        return self.verified + sum(self.rejected.values())

    @property
    def set_aside(self) -> int:
        return sum(self.rejected[name] for name in SET_ASIDE)

    @property
    def share(self) -> float:
        """Of verified traces."""
        return self.verified / self.total if self.total else 0.0

    @property
    def complete(self) -> bool:
        """Every line of the input is a trace, could be checked and has its verdict."""
        return not (self.set_aside or self.open or self.stopped or self.torn or self.repeated)

    def count(self, row: dict[str, Any]) -> None:
        """One verdict, as it lies in the folder."""
        ok = row.get("status") == "ok"
        kind = str(row.get("kind") or row.get("type_id", "unreadable"))
        self.kinds.setdefault(kind, Counter())["verified" if ok else "rejected"] += 1
        if ok:
            self.verified += 1
            return
        self.rejected[str(row.get("check"))] += 1
        if not self.first_aside and row.get("check") in SET_ASIDE:
            self.first_aside = str(row.get("reason"))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "verified": self.verified,
            "rejected": dict(self.rejected.most_common()),
            "share": self.share,
            "set_aside": self.set_aside,
            "kinds": {kind: dict(counts) for kind, counts in self.kinds.items()},
            "to_retry": self.to_retry,
            "open": dict(self.open.most_common()),
            "stopped": self.stopped,
            "torn": self.torn,
            "repeated": self.repeated,
        }
