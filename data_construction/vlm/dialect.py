"""How a request is worded for an endpoint: they differ in what they take, and say so only when asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from data_construction.vlm.exchange import Prompt
from data_construction.vlm.settings import ClientSettings, Structured

Part = Literal["max_tokens", "temperature", "schema"]
"""Of a request, that an endpoint may not take."""
NEXT: dict[Structured, Structured] = {"schema": "object", "object": "text"}


@dataclass(frozen=True)
class Dialect:
    """``fallback``: a schema may be given up for less."""

    structured: Structured
    fallback: bool
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    temperature: bool = True

    @staticmethod
    def first(settings: ClientSettings) -> Dialect:
        auto = settings.structured == "auto"
        return Dialect("schema" if auto else settings.structured, auto)

    def without(self, refused: Sequence[Part]) -> Dialect | None:
        """What to try after a refusal of one of these; None where nothing is left."""
        if "max_tokens" in refused and self.limit == "max_tokens":
            return replace(self, limit="max_completion_tokens")
        if "temperature" in refused and self.temperature:
            return replace(self, temperature=False)
        if "schema" in refused and self.fallback and self.structured in NEXT:
            return replace(self, structured=NEXT[self.structured])
        return None

    def body(self, settings: ClientSettings, prompt: Prompt[Any]) -> dict[str, Any]:
        """The request."""
        body: dict[str, Any] = {"model": settings.model, "messages": prompt.messages}
        body |= {"temperature": settings.temperature} if self.temperature else {}
        body[self.limit] = settings.max_tokens
        if self.structured == "schema":
            wanted = {"name": "reply", "schema": prompt.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": wanted}
        elif self.structured == "object":
            body["response_format"] = {"type": "json_object"}
        return body
