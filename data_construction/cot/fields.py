"""The parts of a reasoning text as the model returns them: a flat JSON object of plain sentences."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from data_construction.vlm import BadReplyError

# Plain prose: nothing that could pass for a tag, a control token or a list, and nothing that JSON would have to escape
# (constrained decoders apply the pattern to the raw text).
_FORBIDDEN = re.compile(r'[<>\[\]{}"\\|]')
_LABEL = re.compile(r"^(?:step\s*\d+|action)\s*[:.]\s*", re.I)


def fields_schema(names: Sequence[str], max_chars: int) -> dict[str, Any]:
    """JSON schema of an object with just these texts, each of 1 to ``max_chars`` characters."""
    pattern = r'^[^<>\[\]{}"\\|\x00-\x1f\x7f-\x9f]{1,' + str(max_chars) + "}$"
    return {
        "type": "object",
        "properties": {name: {"type": "string", "pattern": pattern} for name in names},
        "required": list(names),
        "additionalProperties": False,
    }


def fields_check(names: Sequence[str], max_chars: int) -> Callable[[dict[str, Any]], dict[str, str]]:
    """Reads such an object; raises BadReplyError naming the field and what is wrong with it."""

    def check(value: dict[str, Any]) -> dict[str, str]:
        return {name: _text(value.get(name), name, max_chars) for name in names}

    return check


def _text(value: Any, name: str, max_chars: int) -> str:
    """One line, without the label that the trace adds itself."""
    if not isinstance(value, str):
        raise BadReplyError("missing_field", f"the reply has no text {name!r}")
    text = _LABEL.sub("", " ".join(value.split()))
    if not text:
        raise BadReplyError("missing_field", f"the reply's {name!r} is empty")
    if len(text) > max_chars:
        raise BadReplyError("too_long", f"the reply's {name!r} has {len(text)} characters, {max_chars} are allowed")
    found = _FORBIDDEN.search(text.replace('"', "'"))
    if found is not None:
        raise BadReplyError("control_text", f"the reply's {name!r} contains {found[0]!r}")
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in text):  # Control characters, halves of a pair.
        raise BadReplyError("control_text", f"the reply's {name!r} contains characters that cannot be written")
    return text.replace('"', "'")
