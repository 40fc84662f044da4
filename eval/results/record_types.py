"""Types of a results file's fields: a file that somebody edited must not end in a traceback."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rollout.errors import DataError

Check = tuple[str, Callable[[Any], bool]]
"""What a value must be, in words, and whether it is."""


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _or_null(check: Check) -> Check:
    words, holds = check
    return f"{words} or null", lambda value: value is None or holds(value)


TEXT: Check = ("str", lambda v: isinstance(v, str))
INT: Check = ("int", _is_int)
INTS: Check = ("a list of int", lambda v: isinstance(v, list) and all(map(_is_int, v)))
LIST: Check = ("a list", lambda v: isinstance(v, list))
MASKS: Check = (
    "a list of RLE or null",
    lambda v: isinstance(v, list) and all(mask is None or isinstance(mask, dict) for mask in v),
)
REWARDS: Check = ("numbers by name", lambda v: isinstance(v, dict) and all(map(_is_number, v.values())))
GROUNDING: Check = (
    "an object of int start, end and keyframe",
    lambda v: isinstance(v, dict) and v.keys() == {"start", "end", "keyframe"} and all(map(_is_int, v.values())),
)

RECORD: dict[str, Check] = {
    **dict.fromkeys(("clip", "expression_id", "text", "kind", "stop"), TEXT),
    **dict.fromkeys(("num_frames", "height", "width", "tokens"), INT),
    "type_id": _or_null(INT),
    "spatial_frames": INTS,
    "turns": LIST,
    "prediction": MASKS,
    "rewards": _or_null(REWARDS),
}
OPTIONAL: dict[str, Check] = {
    **dict.fromkeys(("drawn_by", "verdict"), _or_null(TEXT)),
    "objects": _or_null(("a list of masks by object", lambda v: isinstance(v, list) and all(map(MASKS[1], v)))),
}
"""Of a record: what older files lack."""
TURN: dict[str, Check] = {
    "text": TEXT,
    "action": _or_null(TEXT),
    "grounding": _or_null(GROUNDING),
    "keyframe": INT,
    "frames_shown": INTS,
    "images": INT,
}


def check_object(
    value: Any, checks: Mapping[str, Check], what: str, where: str, optional: Mapping[str, Check] | None = None
) -> None:
    """Raise DataError unless ``value`` has exactly these fields of these types, and of ``optional`` any; ``what`` is
    its class's name."""
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected an object of {what}, found {type(value).__name__}")
    checks = {**checks, **{name: check for name, check in (optional or {}).items() if name in value}}
    if set(value) != set(checks):
        missing, unknown = sorted(set(checks) - set(value)), sorted(set(value) - set(checks))
        raise DataError(f"{where}: not a {what}: missing {missing}, unknown {unknown}")
    for name, (words, holds) in checks.items():
        if not holds(value[name]):
            raise DataError(f"{where}: {name!r} must be {words}, found {_short(value[name])}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}\N{HORIZONTAL ELLIPSIS}"
