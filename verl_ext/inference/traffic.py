"""What a rollout's time went to, for the step's log: waiting for vLLM, for pictures, and what vLLM had cached."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

KEY = "traffic"
"""In a rollout's ``extra_fields``."""


@dataclass
class Traffic:
    """Of one dialogue; travels as a plain dict."""

    seconds: float = 0.0
    """From its first to its last moment."""
    generate_seconds: float = 0.0
    """In which it waited for vLLM."""
    picture_seconds: float = 0.0
    """In which it waited for its pictures to be read and resized."""
    pictures: int = 0
    """Shown over all turns, each once."""
    prompt_tokens: int = 0
    """Sent to vLLM, all turns together: a later turn sends what the earlier ones sent."""
    cached_tokens: int = 0
    """Those whose keys and values vLLM still had."""

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Adds the block's seconds to one of the fields."""
        began = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, name, getattr(self, name) + time.perf_counter() - began)

    def answered(self, prompt_tokens: int, cached_tokens: int | None) -> None:
        """One answer of vLLM's; it may not say what it had."""
        self.prompt_tokens += prompt_tokens
        self.cached_tokens += cached_tokens or 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def traffic_metrics(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of a step, from its rollouts' ``extra_fields``; those without are left out.

    rollout/prefix_cached: share of the prompt tokens that vLLM did not compute again. rollout/seconds_mean and _max: of
    a dialogue; the step waits for the longest. rollout/generate_share, picture_share: of the dialogues' time.
    """
    found = [Traffic(**row[KEY]) for row in rows if row.get(KEY)]
    if not found:
        return {}
    total = sum(t.seconds for t in found) or 1.0
    return {
        "rollout/prefix_cached": sum(t.cached_tokens for t in found) / max(1, sum(t.prompt_tokens for t in found)),
        "rollout/seconds_mean": total / len(found),
        "rollout/seconds_max": max(t.seconds for t in found),
        "rollout/generate_share": sum(t.generate_seconds for t in found) / total,
        "rollout/picture_share": sum(t.picture_seconds for t in found) / total,
        "rollout/pictures": float(sum(t.pictures for t in found)),
    }
