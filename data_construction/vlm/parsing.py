"""From a model's text to the JSON object in it."""

from __future__ import annotations

import json
from typing import Any

from data_construction.vlm.errors import BadReplyError
from rollout.reading import without_thoughts


def parse_object(text: str) -> dict[str, Any]:
    """The reply's JSON object: all of the text, or the first one in it (after a thought, in a code fence, in prose).

    A draft within a thought is no answer, whether a template or the model opened it, nor if it never closes. Raises
    BadReplyError where there is none.
    """
    body = without_thoughts(text)
    decoder = json.JSONDecoder()
    at = body.find("{")
    while at >= 0:
        try:
            value, _ = decoder.raw_decode(body, at)
        except (ValueError, RecursionError):
            at = body.find("{", at + 1)
            continue
        if isinstance(value, dict):
            return value
        break
    raise BadReplyError("no_json", f"no JSON object in the reply {text[:120]!r}")
