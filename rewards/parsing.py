"""Read an assistant turn the way the rewards do. Malformed text gives None, never an exception.

The environment has its own parser (``rollout.protocol``). This one also knows the released quirks: two of the
released rewards read ``<VTG>`` as a Python literal, so single quotes pass there, and a missing index counts as 0.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rewards.types import Variant
from rollout.control_text import SEG_TOKEN
from rollout.reading import load_json
from rollout.types import Action

END_OF_TURN = "<|im_end|>"

_THINK = re.compile(r"<think>(.*?)</think>", re.DOTALL | re.IGNORECASE)
_ACTION = re.compile(r"<(select|answer)>(.*?)</\1>", re.DOTALL)
_VTG = re.compile(r"<VTG>(.*?)</VTG>", re.DOTALL)
_REFSEG = re.compile(r"<RefSeg>(.*?)</RefSeg>", re.DOTALL)

_MAX_LITERAL_CHARS = 1000
"""A grounding takes about 50; the bound keeps hostile nesting away from Python's own parser."""


@dataclass(frozen=True)
class ActionBlock:
    """``<select>body</select>`` or ``<answer>body</answer>``."""

    action: Action
    body: str

    @property
    def vtg(self) -> str | None:
        """What stands between ``<VTG>`` and ``</VTG>``; None without the tags."""
        found = _VTG.search(self.body)
        return found.group(1) if found else None

    @property
    def has_seg(self) -> bool:
        """A ``<RefSeg>`` that holds ``[SEG]``."""
        found = _REFSEG.search(self.body)
        return found is not None and SEG_TOKEN in found.group(1)


def think_block(text: str) -> str | None:
    """The first closed ``<think>`` block's content, the tag in any case."""
    found = _THINK.search(text)
    return found.group(1) if found else None


def action_blocks(text: str) -> list[ActionBlock]:
    """Every closed action block, in order."""
    return [ActionBlock(Action(found.group(1)), found.group(2)) for found in _ACTION.finditer(text)]


def read_vtg(text: str, variant: Variant) -> Mapping[str, Any] | None:
    """``<VTG>`` content as a mapping: strict JSON, or for ``released`` a Python literal; None if it is neither."""
    if variant == "intended":
        value = load_json(text)
    elif len(text) > _MAX_LITERAL_CHARS:
        return None
    else:
        try:
            value = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None
    return value if isinstance(value, dict) else None


def as_index(value: Any, variant: Variant) -> int | None:
    """A frame index: an int; ``released`` takes what ``int()`` takes (13.0, "13"). None otherwise."""
    if variant == "intended":
        return value if isinstance(value, int) and not isinstance(value, bool) else None
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return None


def last_indices(text: str, keys: tuple[str, ...], variant: Variant) -> tuple[int, ...] | None:
    """Frame indices ``keys`` of the last action block, unclamped; None if any is missing or unreadable.

    ``released`` takes the last block that holds a VTG, and reads a missing key as 0.
    """
    blocks = action_blocks(text)
    if variant == "released":
        blocks = [block for block in blocks if block.vtg is not None]
    vtg_text = blocks[-1].vtg if blocks else None
    vtg = read_vtg(vtg_text, variant) if vtg_text is not None else None
    if vtg is None:
        return None
    default = 0 if variant == "released" else None
    found = [as_index(vtg.get(key, default), variant) for key in keys]
    return None if any(i is None for i in found) else tuple(i for i in found if i is not None)
