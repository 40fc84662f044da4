"""Where requests go, how many at once, and what a failure costs in time."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Literal, get_args

from data_construction.vlm.usage import Prices
from rollout.errors import RecipeError

Structured = Literal["auto", "schema", "object", "text"]
"""What the endpoint is asked to hold a reply to: a JSON schema, any JSON object, nothing; auto goes down this list."""


@dataclass(frozen=True)
class ClientSettings:
    """Times are in seconds. The key itself is never kept here, only the name of the variable that holds it."""

    model: str
    base_url: str | None = None
    """None: the ``openai`` package's own default, which reads ``OPENAI_BASE_URL``."""
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int = 32
    """Most requests in flight."""
    timeout: float = 180.0
    """For one attempt."""
    attempts: int = 6
    """Of one request, while the endpoint answers with 429, 5xx, nonsense or not at all."""
    reply_attempts: int = 3
    """Of one request, while the model's reply is not what was asked for."""
    backoff: float = 1.0
    """Before the second attempt; doubles with each further one, with jitter."""
    backoff_max: float = 60.0
    temperature: float = 0.7
    max_tokens: int = 1024
    structured: Structured = "auto"
    prices: Prices = field(default_factory=Prices)
    max_cost: float | None = None
    """In the prices' currency; needs prices."""

    def __post_init__(self) -> None:
        for name in ("concurrency", "attempts", "reply_attempts", "max_tokens"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name} = {getattr(self, name)}: must be at least 1")
        if min(self.timeout, self.backoff_max) <= 0 or self.backoff < 0:
            raise RecipeError(f"timeout = {self.timeout}, backoff_max = {self.backoff_max}: must be positive")
        if self.structured not in get_args(Structured):
            raise RecipeError(f"structured = {self.structured!r}: expected {', '.join(get_args(Structured))}")
        if self.max_cost is not None and not self.prices.known:
            raise RecipeError(f"max_cost = {self.max_cost}: needs the model's prices per million tokens to be counted")

    def api_key(self) -> str:
        """From the environment, without the line end that ``$(cat file)`` or an env file may leave.

        A server of one's own (any other base URL) often wants none, but the package wants a string. Raises RecipeError
        where a key is needed and there is none, and for one that no header can hold: the package's own error shows it.
        """
        key = os.environ.get(self.api_key_env, "").strip()
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise RecipeError(
                f"environment variable {self.api_key_env} holds a space, a line end or another character that no key "
                "has; set it to the bare key"
            )
        if not key and self.base_url is None and not os.environ.get("OPENAI_BASE_URL"):
            raise RecipeError(f"environment variable {self.api_key_env} is not set: it must hold the endpoint's key")
        return key or "none"
