"""Veason-R1's answer (SPEC 3): think, then a JSON object with the keyframe's timestamp and boxes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

_REPLY = re.compile(r"\s*<think>(.*?)</think>\s*<answer>(.*?)</answer>\s*", re.DOTALL)

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels of the frames as they were shown."""


@dataclass(frozen=True)
class BoxAnswer:
    """What the policy answered: a timestamp in seconds and one box per object."""

    keyframe_timestamp: int
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class ParsedBoxTurn:
    """A reply, read; ``problem`` is the first breach of the protocol, None for a well-formed reply."""

    answer: BoxAnswer | None
    think: str | None
    problem: str | None


def parse_box_turn(text: str) -> ParsedBoxTurn:
    """Reads a whole reply; never raises. The answer is there only if it parses in every part."""
    match = _REPLY.fullmatch(text)
    if match is None:
        return ParsedBoxTurn(None, None, "expected <think>…</think><answer>…</answer> and nothing else")
    think, body = match.groups()
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return ParsedBoxTurn(None, think, "the answer is not JSON")
    if not isinstance(value, dict):
        return ParsedBoxTurn(None, think, "the answer is not a JSON object")
    timestamp, boxes = value.get("keyframe_timestamp"), value.get("bbox_2d_list")
    if not isinstance(timestamp, int) or isinstance(timestamp, bool):
        return ParsedBoxTurn(None, think, "keyframe_timestamp is not an integer")
    if not isinstance(boxes, list) or not all(_is_box(b) for b in boxes):
        return ParsedBoxTurn(None, think, "bbox_2d_list is not a list of [x1, y1, x2, y2]")
    try:
        numbers = tuple((float(x1), float(y1), float(x2), float(y2)) for x1, y1, x2, y2 in boxes)
    except OverflowError:
        return ParsedBoxTurn(None, think, "a box coordinate is too large")
    return ParsedBoxTurn(BoxAnswer(timestamp, numbers), think, None)


def _is_box(value: object) -> bool:
    if not isinstance(value, list) or len(value) != 4:
        return False
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
