"""What a job has asked for, got and spent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from data_construction.vlm.errors import BudgetReachedError
from data_construction.vlm.usage import Prices, Usage


@dataclass
class Ledger:
    """Counts of one job. ``cap`` bounds ``spent`` plus what the requests in flight may cost at most."""

    prices: Prices = field(default_factory=Prices)
    cap: float | None = None
    sent: int = 0
    """Attempts, retries included."""
    answered: int = 0
    """Replies that were accepted."""
    cached: int = 0
    """Replies that came from the cache and cost nothing now."""
    retried: Counter[str] = field(default_factory=Counter)
    """Further attempts, by the reason of the one before."""
    usage: Usage = field(default_factory=Usage)
    """Of this job's requests, rejected replies included, the cache's not."""
    spent_before: float = 0.0
    """By earlier runs of the same job."""
    paid: Callable[[Usage], None] | None = None
    """Told of every answer that was paid for, as soon as it is there."""
    reserved: float = 0.0
    in_flight: int = 0
    _expected_prompt: float = 0.0
    """How many tokens a prompt had for each one estimated, at most so far."""

    @property
    def spent(self) -> float:
        return self.spent_before + self.usage.cost

    def reserve(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Set aside what a request may cost at most. Raises BudgetReachedError, nothing set aside, over the cap."""
        expected = int(prompt_tokens * max(1.0, self._expected_prompt))
        cost = self.prices.usage(expected, completion_tokens).cost
        if self.cap is not None and self.spent + self.reserved + cost > self.cap:
            raise BudgetReachedError(
                f"spend cap {self.cap:g} reached: {self.spent:.4g} spent, and the next request may cost {cost:.4g}"
            )
        self.reserved += cost
        self.in_flight += 1
        return cost

    def release(self, reserved: float) -> None:
        self.in_flight -= 1
        self.reserved = max(0.0, self.reserved - reserved) if self.in_flight else 0.0

    def add(self, usage: Usage, estimated_prompt: int) -> None:
        """Count a paid reply, and learn from it how far off the estimates of prompts are."""
        self.usage += usage
        if self.paid is not None:
            self.paid(usage)
        if estimated_prompt > 0:
            self._expected_prompt = max(self._expected_prompt, usage.prompt_tokens / estimated_prompt)
