"""Veason-R1's answer (SPEC 3): think, then a JSON object with the keyframe's timestamp and boxes.

Environment, rewards, masks and checks all read a reply with this. As in `rollout.protocol` reading never raises, and
what can be carried out is carried out: an answer is there if it names a second and a list of boxes, whatever else is
wrong with the reply. The first breach stands in ``problem``; what it costs is for the rewards to say.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from rollout.protocol import load_json

_REPLY = re.compile(r"\s*<think>(.*?)</think>\s*<answer>.*?</answer>\s*", re.DOTALL)
_THINK = re.compile(r"\s*<think>(.*?)</think>", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
MAX_BOXES = 120
"""Boxes beyond this many are not looked at: matching them is cubic in their number."""

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels of the frames as they were shown."""


@dataclass(frozen=True)
class BoxReply:
    """The answer's JSON as the policy wrote it; each field None if it is missing."""

    timestamp: Any = None
    boxes: list[Any] | None = None

    @property
    def candidates(self) -> list[Any]:
        """The first boxes of the list, well-formed or not."""
        return (self.boxes or [])[:MAX_BOXES]


@dataclass(frozen=True)
class BoxAnswer:
    """What can be carried out: a timestamp in seconds, and the usable ones of the boxes."""

    keyframe_timestamp: int
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class ParsedBoxTurn:
    """A reply, read; ``problem`` is the first breach of the protocol, None for a well-formed reply."""

    answer: BoxAnswer | None
    think: str | None
    problem: str | None


def parse_box_turn(text: str) -> ParsedBoxTurn:
    """Reads a whole reply; never raises."""
    whole, think = _REPLY.fullmatch(text), _THINK.match(text)
    problems = [] if whole else ["expected <think>…</think><answer>…</answer> and nothing else"]
    reply = read_box_reply(text)
    answer = None
    if reply is None:
        problems.append("the answer is not a JSON object")
    else:
        problems += _problems(reply)
        seconds, usable = whole_second(reply.timestamp), [usable_box(b) for b in reply.candidates]
        if seconds is not None and reply.boxes is not None:
            answer = BoxAnswer(seconds, tuple(b for b in usable if b is not None))
    return ParsedBoxTurn(answer, think.group(1) if think else None, problems[0] if problems else None)


def read_box_reply(text: str, strict: bool = True) -> BoxReply | None:
    """The first answer block's JSON object (``strict``: without NaN and Infinity); None without one."""
    found = _ANSWER.search(text)
    data = load_json(found.group(1), strict) if found else None
    if not isinstance(data, dict):
        return None
    boxes = data.get("bbox_2d_list")
    return BoxReply(data.get("keyframe_timestamp"), boxes if isinstance(boxes, list) else None)


def whole_second(value: Any) -> int | None:
    """A whole number of seconds, also one in quotes or with a zero fraction; None for anything else."""
    try:
        seconds = int(value)
        return None if isinstance(value, bool) or seconds != float(value) else seconds
    except (TypeError, ValueError, OverflowError):
        return None


def is_box(value: Any) -> bool:
    """Four finite numbers."""
    return isinstance(value, list) and len(value) == 4 and all(_is_number(v) for v in value)


def usable_box(value: Any) -> Box | None:
    """A box that encloses something; None for what is no box, or an inverted one (x1 > x2 or y1 > y2)."""
    if not is_box(value) or value[0] > value[2] or value[1] > value[3]:
        return None
    return (value[0], value[1], value[2], value[3])


def _problems(reply: BoxReply) -> list[str]:
    problems = []
    if not isinstance(reply.timestamp, int) or whole_second(reply.timestamp) is None:
        problems.append("keyframe_timestamp is not an integer")
    if reply.boxes is None:
        problems.append("bbox_2d_list is not a list of [x1, y1, x2, y2]")
    for i, value in enumerate(reply.boxes or ()):
        if not is_box(value):
            problems.append(f"bbox_2d_list[{i}] is not [x1, y1, x2, y2]")
        elif usable_box(value) is None:
            problems.append(f"bbox_2d_list[{i}] is inverted")
    return problems


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of more than 308 digits
        return False
