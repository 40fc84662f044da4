"""What is asked, what comes back, and what is made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from data_construction.vlm.cache import CachedReply
from data_construction.vlm.errors import BadReplyError
from data_construction.vlm.parsing import parse_object
from data_construction.vlm.usage import Usage

T = TypeVar("T")
Message = Mapping[str, Any]


@dataclass(frozen=True)
class Prompt(Generic[T]):
    """What to ask and what to accept."""

    messages: Sequence[Message]
    """In the chat form of the OpenAI interface, images as data URLs."""
    schema: Mapping[str, Any]
    """JSON schema of the reply, an object."""
    check: Callable[[dict[str, Any]], T]
    """From the reply's JSON object to what is wanted. Raises BadReplyError: it is asked for again."""
    prompt_tokens: int = 0
    """Estimate, for the spend cap."""
    salt: str = ""
    """Tells apart requests of equal content that must not share a reply in the cache."""


@dataclass(frozen=True)
class Reply(Generic[T]):
    """``usage`` is what the reply took when it was made, also where it came from the cache."""

    value: T
    usage: Usage
    cached: bool


@dataclass(frozen=True)
class Answer:
    """A completion as it came."""

    kept: CachedReply
    usage: Usage
    cut: bool
    """It reached ``max_tokens``."""

    def parse(self) -> dict[str, Any]:
        """Its JSON object. Raises BadReplyError, also for a cut text whose first part happens to parse."""
        if self.cut:
            n = self.kept.completion_tokens
            raise BadReplyError("truncated", f"the reply was cut after {n} tokens; raise max_tokens")
        return parse_object(self.kept.text)
