"""A trace taken apart into what a trainer reads (turns, images) and the rest, and put together again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from data_construction.traces import Trace
from rollout.errors import DataError

Turn = tuple[str, str]
"""(from, value)."""
COLUMN = "trace"
"""Where the rest of a trace is kept, as JSON text: trainers leave unknown columns alone."""


def rest_of(trace: Trace) -> str:
    """All of the trace but the turns, whose place is kept, as JSON text."""
    record = {**trace.record, "conversations": None}
    return json.dumps({**trace.raw, "record": record}, ensure_ascii=False, separators=(",", ":"))


def together(turns: Sequence[Turn], rest: Any, where: str) -> dict[str, Any]:
    """The trace's line again. Raises DataError if ``rest`` is not what ``rest_of`` wrote."""
    try:
        raw = json.loads(rest)
        raw["record"]["conversations"] = [{"from": who, "value": value} for who, value in turns]
    except (TypeError, ValueError, KeyError) as e:
        raise DataError(
            f"{where}: column {COLUMN!r} does not hold the rest of a trace ({type(e).__name__}: {e}); only files that "
            "`videoseg data export` wrote can be turned back"
        ) from e
    return raw  # type: ignore[no-any-return]


def renamed(turns: Sequence[Turn], names: Mapping[str, str], where: str) -> list[Turn]:
    """Turns with their roles in other words. Raises DataError for a role that has none."""
    unknown = [who for who, _ in turns if who not in names]
    if unknown:
        raise DataError(f"{where}: role {unknown[0]!r}; known are {', '.join(names)}")
    return [(names[who], value) for who, value in turns]
