"""What can be read of a model's text although it keeps to no strict form; what that costs is for the rewards to say.

Models write fences, single quotes, full-width marks, trailing commas and numbers in quotes. Nothing is guessed: what is
cut off or missing stays unread, and nothing here ever raises.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

LONGEST = 20_000
"""Characters beyond which nothing is read but strict JSON: hostile nesting stays away from Python's own parser."""
_DEEPEST = 32
_ODD_MARKS = {'"': "\u201c\u201d\u201e\u201f\u2033\u300c\u300d\u300e\u300f", "'": "\u2018\u2019\u201a\u201b\u2032"}
_ODD_MARKS |= {",": "\u3001", " ": "\u3000\u00a0", "-": "\u2212\u2013", "[": "\u3010", "]": "\u3011"}
_PLAIN = {wide: wide - 0xFEE0 for wide in range(0xFF01, 0xFF5F)} | {
    ord(odd): plain for plain, all_odd in _ODD_MARKS.items() for odd in all_odd
}
"""Full-width forms, and typographic quotes, commas, spaces, dashes and brackets."""
_COMMENT = re.compile(r"/\*.*?\*/|(?<!:)//[^\n]*", re.DOTALL)
_STRAY_BACKSLASH = re.compile(r"\\(?![\"'\\])")
_WORDS = ((re.compile(r"\btrue\b"), "True"), (re.compile(r"\bfalse\b"), "False"), (re.compile(r"\bnull\b"), "None"))
_BARE_KEY = re.compile(r"([{,]\s*)([A-Za-z_]\w*)\s*:")
_TAG = re.compile(r"<[^<>]*>|`{3,}\w*")
_NUMBER = re.compile(
    r"(?:frame|second|time|t)?\s*[:=#]?\s*([-+]?\d+(?:\.\d+)?)\s*(?:s|secs?|seconds?)?\.?", re.IGNORECASE
)
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d{2}(?:\.\d+)?)")
_THOUGHT_OPENS = re.compile(r"\s*<think(?:ing)?>", re.IGNORECASE)
_THOUGHT_TAG = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)
_THOUGHT_CLOSES = re.compile(r"</think(?:ing)?>", re.IGNORECASE)


def load_json(text: str, strict: bool = True) -> Any:
    """The value of JSON (``strict``: NaN and Infinity are refused), or None if it does not parse."""
    try:
        return json.loads(text, parse_constant=_refuse_constant if strict else None)
    except (ValueError, RecursionError):  # ValueError also covers integers too long to convert
        return None


def plain_marks(text: str) -> str:
    """Full-width and typographic marks and digits as ASCII; the length stays the same."""
    return text if text.isascii() else text.translate(_PLAIN)


def beyond_thought(text: str) -> list[str]:
    """Where an action may stand, the likeliest place first: what follows the last closing tag of a thought, or the
    first one. A template may have opened the thought. All of the text where none closes."""
    ends = [found.end() for found in _THOUGHT_CLOSES.finditer(text)]
    return [text[end:] for end in dict.fromkeys((*ends[-1:], *ends[:1]))] or [text]


def without_thoughts(text: str) -> str:
    """What is said outside thoughts, however many there are. One that a template opened ends at its closing tag; one
    that never closes goes on to the end."""
    said: list[str] = []
    at = 0
    while (tag := _THOUGHT_TAG.search(text, at)) is not None:
        if tag[1]:  # closes what nothing opened here: all before it was a thought
            said = []
            at = tag.end()
            continue
        said.append(text[at : tag.start()])
        close = _THOUGHT_CLOSES.search(text, tag.end())
        if close is None:
            return "".join(said)
        at = close.end()
    return "".join([*said, text[at:]])


def thought_is_open(text: str) -> bool:
    """Whether the text begins with a thought that never closes."""
    return _THOUGHT_OPENS.match(text) is not None and _THOUGHT_CLOSES.search(text) is None


def read_objects(text: str) -> Iterator[dict[str, Any]]:
    """The mappings written in ``text``, in order, in fences, tags or prose; of one inside another only the outer."""
    body = without_marks(text)
    value = load_json(body)
    if isinstance(value, dict):
        yield value
        return
    if len(body) > LONGEST:
        return
    at = body.find("{")
    if at < 0:  # keys and values without braces around them
        value = _lenient("{" + body + "}")
        if value:
            yield value
    while at >= 0:
        end = _closing(body, at)
        value = _lenient(body[at:end]) if end else None
        if value is not None:
            yield value
        at = body.find("{", end if end and value is not None else at + 1)


def without_marks(text: str) -> str:
    """Without tags and code fences, in plain marks."""
    return _TAG.sub(" ", plain_marks(text))


def whole_number(value: Any) -> int | None:
    """A number, also one in quotes, with its unit, alone in a list, or as minutes and seconds; a fraction is cut off.

    None for anything else. ``3``, ``3.0``, ``"3"``, ``"3.5 s"``, ``"frame 3"``, ``[3]`` and ``"00:03"`` are 3.
    """
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    number = plain_number(value)
    if number is None and isinstance(value, str):
        clock = _CLOCK.fullmatch(plain_marks(value).strip())
        if clock is not None:
            hours, minutes, seconds = clock.groups()
            number = 3600 * int(hours or 0) + 60 * int(minutes) + float(seconds)
    return None if number is None else int(number)


def plain_number(value: Any) -> float | None:
    """A finite number, also one in quotes (with its unit); None for anything else."""
    if isinstance(value, str):
        found = _NUMBER.fullmatch(plain_marks(value).strip())
        value = float(found[1]) if found else None
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # an integer of more than 308 digits
        return None


def field_of(values: Mapping[Any, Any], *names: str) -> Any:
    """The value under the first of ``names`` that is there, capitals, spaces and ``_`` aside; None without one."""
    known = {_plain_key(key): value for key, value in values.items() if isinstance(key, str)}
    return next((known[_plain_key(name)] for name in names if _plain_key(name) in known), None)


def _plain_key(name: str) -> str:
    return re.sub(r"[\s_\-]", "", name).lower()


def _lenient(text: str) -> dict[str, Any] | None:
    """A mapping in JSON or as Python or JavaScript write it; None if it is none."""
    found = load_json(text)
    if found is None and _depth(text) <= _DEEPEST:
        body = _STRAY_BACKSLASH.sub("", _COMMENT.sub(" ", text))
        for pattern, word in _WORDS:
            body = pattern.sub(word, body)
        found = _literal(body)
        if found is None:
            found = _literal(_BARE_KEY.sub(r'\1"\2":', body))
    return found if isinstance(found, dict) else None


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _depth(text: str) -> int:
    depth = deepest = 0
    for mark in text:
        depth += (mark in "{[(") - (mark in "}])")
        deepest = max(deepest, depth)
    return deepest


def _closing(text: str, start: int) -> int | None:
    """One past the brace that closes the one at ``start``; None if none does."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return i + 1
    return None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
