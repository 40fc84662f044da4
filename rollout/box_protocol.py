"""Veason-R1's answer (SPEC 3): think, then a JSON object with the keyframe's timestamp and boxes.

Environment, rewards, masks and checks all read a reply with this. As in `rollout.protocol` reading never raises, and
what can be read is carried out: an answer is there if a second and boxes (or an empty list of them) can be read,
whatever form they have. The first breach stands in ``problem``; what it costs is for the rewards to say, which read
strictly: `read_box_reply`, `whole_second`, `usable_box`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rollout.reading import (
    beyond_thought,
    field_of,
    load_json,
    plain_marks,
    plain_number,
    read_objects,
    thought_is_open,
    whole_number,
)

_REPLY = re.compile(r"\s*<think>(.*?)</think>\s*<answer>.*?</answer>\s*", re.DOTALL)
_THINK = re.compile(r"\s*<think>(.*?)</think>", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_BLOCK = re.compile(r"<\s*answer\s*>(.*?)(?:<\s*/\s*answer\s*>|(?=<\s*answer\s*>)|\Z)", re.DOTALL | re.IGNORECASE)
"""An answer as it may be found: in any case, or never closed."""
SECOND_KEYS = ("keyframe_timestamp", "timestamp", "keyframe_time", "keyframe_second", "keyframe", "time", "second")
BOX_KEYS = ("bbox_2d_list", "bbox_2d", "bboxes_2d", "bbox_list", "bboxes", "boxes", "bbox", "box_2d", "box")
CORNERS = (("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"), ("left", "top", "right", "bottom"))
_DEEPEST = 8
MAX_BOXES = 120
"""Boxes beyond this many are not looked at: matching them is cubic in their number."""

MISSING = object()
Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels of the frames as they were shown."""


@dataclass(frozen=True)
class BoxReply:
    """The answer's JSON as the policy wrote it; each field None if it is missing."""

    timestamp: Any = None
    boxes: list[Any] | None = None
    mask: Any = MISSING
    """Of an answer that also holds ``[SEG]`` (`rollout.environments.combined_answers`)."""

    @property
    def says_nothing(self) -> bool:
        """An answer in full form that there is no target: no box, and null for the mask."""
        return whole_second(self.timestamp) is not None and self.boxes == [] and self.mask is None

    @property
    def candidates(self) -> list[Any]:
        """The first boxes of the list, well-formed or not."""
        return (self.boxes or [])[:MAX_BOXES]


@dataclass(frozen=True)
class BoxAnswer:
    """What can be carried out: a timestamp in seconds, and the boxes that can be read, their corners in order."""

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
    problems += ["the answer is not a JSON object"] if reply is None else _problems(reply)
    return ParsedBoxTurn(read_answer(text), think.group(1) if think else None, problems[0] if problems else None)


def read_box_reply(text: str, strict: bool = True) -> BoxReply | None:
    """The first answer block's JSON object; None without one.

    ``strict``: the first one after the thought (which may speak of the tag), without NaN and Infinity; otherwise as the
    released rewards read it.
    """
    thought = _THINK.match(text) if strict else None
    found = _ANSWER.search(text, thought.end() if thought else 0)
    data = load_json(found.group(1), strict) if found else None
    if not isinstance(data, dict):
        return None
    boxes = data.get("bbox_2d_list")
    mask = data.get("mask", MISSING)
    return BoxReply(data.get("keyframe_timestamp"), boxes if isinstance(boxes, list) else None, mask)


def read_answer(text: str) -> BoxAnswer | None:
    """The first answer that can be read beyond the thought, whatever form it has; None if there is none.

    Boxes of which not one can be read are no answer; an empty list is one.
    """
    for place in beyond_thought(plain_marks(text)):
        blocks = [block[1] for block in _BLOCK.finditer(place)]
        if not blocks and not thought_is_open(text):
            blocks = [place]
        for value in (v for body in blocks for v in read_objects(body)):
            second, written = whole_number(field_of(value, *SECOND_KEYS)), field_of(value, *BOX_KEYS)
            boxes = tuple(dict.fromkeys(boxes_in(written)))[:MAX_BOXES]  # a box that stands there twice is one object
            if second is not None and (boxes or written == []):
                return BoxAnswer(second, boxes)
    return None


def boxes_in(value: Any, depth: int = 0) -> Iterator[Box]:
    """The boxes in ``value``: four numbers, lists of them (flat or nested), two corners, or objects that hold one.

    Corners are put in order; what is no box is left out.
    """
    if depth > _DEEPEST:
        return
    if isinstance(value, str):
        value = [field for found in read_objects(f'{{"boxes": {value}}}') for field in found.values()]
    if isinstance(value, Mapping):
        value = _fields(value)
    if not isinstance(value, list | tuple):
        return
    numbers = [plain_number(v) for v in value]
    known = [n for n in numbers if n is not None]
    if len(known) == len(value) and len(value) % 4 == 0:
        yield from (_ordered(known[i : i + 4]) for i in range(0, len(known), 4))
    elif len(value) == 2 and all(_is_point(v) for v in value):
        yield from boxes_in([*value[0], *value[1]], depth + 1)
    else:
        for inner in value:
            yield from boxes_in(inner, depth + 1) if not isinstance(inner, int | float) else ()


def _fields(value: Mapping[Any, Any]) -> Any:
    """What stands for boxes in an object: its corners, what is called a box, or whatever is no bare number."""
    for names in CORNERS:
        corners = [field_of(value, name) for name in names]
        if all(corner is not None for corner in corners):
            return corners
    named = field_of(value, *BOX_KEYS)
    return [v for v in value.values() if isinstance(v, list | tuple | Mapping)] if named is None else named


def _is_point(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(plain_number(v) is not None for v in value)


def _ordered(corners: list[float]) -> Box:
    (x1, x2), (y1, y2) = sorted(corners[0::2]), sorted(corners[1::2])
    return (x1, y1, x2, y2)


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
