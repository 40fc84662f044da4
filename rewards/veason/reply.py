"""Read a box reply: ``<answer>{"keyframe_timestamp": int, "bbox_2d_list": [[x1, y1, x2, y2], …]}</answer>``.

Malformed text gives None in the part that is malformed, never an exception.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rewards.parsing import load_json
from rewards.types import Box, Variant

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_MAX_BOXES = 120
"""Boxes beyond this many are not looked at (as released): the matching is cubic in their number."""


@dataclass(frozen=True)
class BoxReply:
    """The answer's JSON as the policy wrote it; each field None if it is missing."""

    timestamp: Any = None
    boxes: list[Any] | None = None

    def frame(self, timestamps: Sequence[int], variant: Variant) -> int | None:
        """Position of the chosen timestamp in ``timestamps``; None if it is not one of them or unreadable.

        A number in quotes is read (the format reward has already frowned at it). released: fractions are cut off.
        """
        try:
            seconds = int(self.timestamp)
            if variant == "intended" and (isinstance(self.timestamp, bool) or seconds != float(self.timestamp)):
                return None
        except (TypeError, ValueError, OverflowError):
            return None
        found = list(timestamps)
        return found.index(seconds) if seconds in found else None

    @property
    def candidates(self) -> list[Any]:
        """The first boxes of the list, well-formed or not."""
        return (self.boxes or [])[:_MAX_BOXES]


def read_reply(text: str, variant: Variant) -> BoxReply | None:
    """The first answer block's JSON object; None without one (released: NaN and Infinity pass as numbers)."""
    found = _ANSWER.search(text)
    data = load_json(found.group(1), strict=variant == "intended") if found else None
    if not isinstance(data, dict):
        return None
    boxes = data.get("bbox_2d_list")
    return BoxReply(data.get("keyframe_timestamp"), boxes if isinstance(boxes, list) else None)


def is_box(value: Any, variant: Variant) -> bool:
    """Four numbers (intended: finite ones, and no booleans)."""
    if not isinstance(value, list) or len(value) != 4 or not all(isinstance(v, (int, float)) for v in value):
        return False
    return variant == "released" or all(not isinstance(v, bool) and _is_finite(v) for v in value)


def usable_box(value: Any, variant: Variant) -> Box | None:
    """A box to match, or None. intended: an inverted box (x1 > x2 or y1 > y2) encloses nothing, so None."""
    if not is_box(value, variant) or not all(map(_fits_float, value)):
        return None
    if variant == "intended" and (value[0] > value[2] or value[1] > value[3]):
        return None
    return (value[0], value[1], value[2], value[3])


def _fits_float(value: float) -> bool:
    try:
        float(value)
    except OverflowError:  # an integer of more than 308 digits
        return False
    return True


def _is_finite(value: float) -> bool:
    return _fits_float(value) and math.isfinite(value)
