"""A JSON list read item by item."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rollout.errors import DataError
from rollout.text_files import encoding_of

CHUNK = 1 << 16
LONGEST_TOKEN = 32
"""Characters of anything in JSON but a string or a number that a chunk may cut."""


class BrokenListError(DataError):
    """The text is no JSON list, or stops being one."""


def read_json_list(path: Path) -> Iterator[Any]:
    """Items of a list, however it is laid out.

    Raises BrokenListError naming the file and the item that does not parse, once those before it are handed out.
    """
    decoder, text, number, closed = json.JSONDecoder(), "", -1, False
    with path.open("rb") as file:
        encoding = encoding_of(file.read(2))
    with path.open(encoding=encoding) as file:
        while not closed:
            try:
                more = file.read(CHUNK)
            except UnicodeDecodeError as e:
                raise BrokenListError(
                    f"{path}: after item {number}: not {encoding.removesuffix('-sig').upper()} text ({e})"
                ) from e
            text = (text + more).lstrip()
            if number < 0 and text:
                if not text.startswith("["):
                    raise BrokenListError(f"{path}: must be a JSON list, begins with {text[:20]!r}")
                text, number = text[1:].lstrip(), 0
            while text and not closed:
                if text.startswith("]"):
                    closed = True
                    break
                try:
                    item, end = decoder.raw_decode(text)
                except (json.JSONDecodeError, RecursionError) as e:
                    if more and _may_go_on(e, text):
                        break
                    raise BrokenListError(f"{path}: item {number} is not JSON ({e}); the file may be cut short") from e
                rest = text[end:].lstrip()
                if not rest and more:
                    break
                if not rest.startswith((",", "]")):
                    what = "expected ',' or ']'; the file may be cut short"
                    raise BrokenListError(f"{path}: after item {number}: {what}")
                yield item
                number += 1
                text = rest[1:].lstrip() if rest.startswith(",") else rest
            if not more and not closed:
                raise BrokenListError(f"{path}: the list does not end; the file is cut short")


def _may_go_on(error: Exception, text: str) -> bool:
    """Whether the next chunk could cure it: it is at the end of the text, or a string that has not ended yet."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated string") or error.pos > len(text) - LONGEST_TOKEN
