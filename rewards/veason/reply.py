"""A box reply as the rewards see it: `rollout.box_protocol` reads it; what the released code does otherwise is here.

Malformed text gives None in the part that is malformed, never an exception.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rewards.types import Box, Variant
from rollout import box_protocol
from rollout.box_protocol import BoxReply


def read_reply(text: str, variant: Variant) -> BoxReply | None:
    """The first answer block's JSON object; None without one (released: NaN and Infinity pass as numbers)."""
    return box_protocol.read_box_reply(text, strict=variant == "intended")


def chosen_position(reply: BoxReply | None, timestamps: Sequence[int], variant: Variant) -> int | None:
    """Position of the chosen timestamp in ``timestamps``; None if it is not one of them or unreadable.

    A number in quotes is read (the format reward has already frowned at it). released: fractions are cut off.
    """
    if reply is None:
        return None
    if variant == "intended":
        seconds = box_protocol.whole_second(reply.timestamp)
    else:
        try:
            seconds = int(reply.timestamp)
        except (TypeError, ValueError, OverflowError):
            return None
    found = list(timestamps)
    return found.index(seconds) if seconds in found else None


def is_box(value: Any, variant: Variant) -> bool:
    """Four numbers (intended: finite ones, and no booleans)."""
    if variant == "intended":
        return box_protocol.is_box(value)
    return isinstance(value, list) and len(value) == 4 and all(isinstance(v, (int, float)) for v in value)


def usable_box(value: Any, variant: Variant) -> Box | None:
    """A box to match, or None. intended: an inverted box (x1 > x2 or y1 > y2) encloses nothing, so None."""
    if variant == "intended":
        return box_protocol.usable_box(value)
    if not is_box(value, variant) or not all(map(_fits_float, value)):
        return None
    return (value[0], value[1], value[2], value[3])


def _fits_float(value: float) -> bool:
    try:
        float(value)
    except OverflowError:  # an integer of more than 308 digits
        return False
    return True
