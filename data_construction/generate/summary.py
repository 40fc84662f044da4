"""What came of a job."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from data_construction.vlm.ledger import Ledger


@dataclass
class Summary:
    """Counts of one run. ``items`` = ``there`` + ``made`` + ``failed`` + ``set_aside`` + what was not come to."""

    items: int
    there: int = 0
    """Made by an earlier run."""
    made: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    """The endpoint or the model did not do it, by reason."""
    set_aside: Counter[str] = field(default_factory=Counter)
    """Bad data, by reason."""
    stopped: str = ""
    """Why the run ended before its end; empty if it did not."""
    seconds: float = 0.0

    @property
    def finished(self) -> int:
        return self.there + self.made + self.failed.total() + self.set_aside.total()

    @property
    def complete(self) -> bool:
        """Every item has its trace."""
        return not self.stopped and self.there + self.made == self.items

    def to_dict(self, ledger: Ledger) -> dict[str, Any]:
        """For ``summary.json`` and the screen."""
        return {
            "items": self.items,
            "already_there": self.there,
            "made": self.made,
            "failed": dict(self.failed.most_common()),
            "set_aside": dict(self.set_aside.most_common()),
            "stopped": self.stopped,
            "seconds": round(self.seconds, 1),
            "requests": {
                "answered": ledger.answered,
                "cached": ledger.cached,
                "retried": dict(ledger.retried.most_common()),
            },
            "prompt_tokens": ledger.usage.prompt_tokens,
            "completion_tokens": ledger.usage.completion_tokens,
            "cost": round(ledger.usage.cost, 6),
            "cost_with_earlier_runs": round(ledger.spent, 6),
        }

    def pace(self, ledger: Ledger, elapsed: float) -> str:
        """Rate, cost and time left, in a few words."""
        now = self.finished - self.there
        rate = now / elapsed if elapsed > 0 else 0.0
        words = [f"{rate:.1f}/s" if rate >= 1 or not rate else f"{60 * rate:.1f}/min"]
        if ledger.prices.known:
            words.append(f"cost {ledger.spent:.2f}")
        if rate:
            words.append(f"{_duration((self.items - self.finished) / rate)} left")
        wrong = self.failed.total() + self.set_aside.total()
        return ", ".join([*words, *([f"{wrong} without trace"] if wrong else [])])


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours:.1f} h" if hours >= 1 else f"{minutes:.0f} min" if minutes >= 1 else f"{seconds:.0f} s"
