"""What a turn looks like as text, and how a reply is read (SPEC 2.1: think, then exactly one action).

Reading a reply never raises: whatever the policy wrote becomes a `ParsedTurn`, with the first breach of the
protocol in ``problem``. An action can be carried out when ``action`` and ``grounding`` are both there; lesser
breaches (a missing think block, no ``[SEG]``) are for the rewards to judge.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from rollout.errors import DataError
from rollout.types import Action, Grounding, Sample

SEG_TOKEN = "[SEG]"
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
VTG_KEYS = ("start", "end", "keyframe")

_THINK = re.compile(r"\s*<think>(.*?)</think>", re.DOTALL)
_ACTION_TAG = re.compile(r"</?(?:select|answer)>")
_ACTION = re.compile(r"<(select|answer)>(.*)</\1>", re.DOTALL)
_VTG = re.compile(r"<VTG>(.*?)</VTG>", re.DOTALL)
_REFSEG = re.compile(r"<RefSeg>(.*?)</RefSeg>", re.DOTALL)


@dataclass(frozen=True)
class ParsedTurn:
    """A reply, read. ``None`` stands for a part that is absent or does not parse."""

    action: Action | None
    grounding: Grounding | None
    think: str | None
    problem: str | None
    """The first breach of the protocol, in words; None for a well-formed turn."""


def format_turn(think: str, action: Action, grounding: Grounding) -> str:
    """The canonical text of a turn; `parse_turn` reads it back without a problem."""
    vtg = json.dumps({"start": grounding.start, "end": grounding.end, "keyframe": grounding.keyframe})
    body = f"<VTG>{vtg}</VTG> <RefSeg> {SEG_TOKEN} </RefSeg>"
    return f"{THINK_OPEN}{think}{THINK_CLOSE}<{action.value}>{body}</{action.value}>"


def parse_turn(text: str) -> ParsedTurn:
    """Reads one assistant message.

    Tags inside the think block are prose and do not count. Exactly one action tag pair may follow it, holding
    exactly one ``<VTG>`` whose body is a JSON object with integer ``start``, ``end`` and ``keyframe``.
    """
    problems: list[str] = []
    think_match = _THINK.match(text)
    think = think_match.group(1) if think_match else None
    rest = text[think_match.end() :] if think_match else text
    if think_match is None:
        problems.append("no <think>…</think> at the beginning")

    tags = _ACTION_TAG.findall(rest)
    action_match = _ACTION.search(rest) if len(tags) == 2 else None
    if action_match is None:
        problems.append(f"expected one <select>…</select> or <answer>…</answer>, found the tags {tags[:6]}")
        return ParsedTurn(None, None, think, problems[0])
    if rest[: action_match.start()].strip() or rest[action_match.end() :].strip():
        problems.append("text outside the think block and the action")

    body = action_match.group(2)
    grounding, vtg_problem = _parse_vtg(body)
    if vtg_problem is not None:
        problems.append(vtg_problem)
    refsegs = _REFSEG.findall(body)
    if len(refsegs) != 1 or refsegs[0].strip() != SEG_TOKEN:
        problems.append(f"expected one <RefSeg> {SEG_TOKEN} </RefSeg>")
    if _REFSEG.sub("", _VTG.sub("", body)).strip() or body.find("<RefSeg>") < body.find("<VTG>"):
        problems.append("the action holds something else than <VTG> and then <RefSeg>")
    return ParsedTurn(Action(action_match.group(1)), grounding, think, problems[0] if problems else None)


def load_json(text: str, strict: bool = True) -> Any:
    """The value of JSON (``strict``: NaN and Infinity are refused), or None if it does not parse."""
    try:
        return json.loads(text, parse_constant=_refuse_constant if strict else None)
    except (ValueError, RecursionError):  # ValueError also covers integers too long to convert
        return None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _parse_vtg(body: str) -> tuple[Grounding | None, str | None]:
    bodies = _VTG.findall(body)
    if len(bodies) != 1:
        return None, f"expected one <VTG>…</VTG>, found {len(bodies)}"
    value = load_json(bodies[0])
    if not isinstance(value, dict):
        return None, "the <VTG> is not a JSON object"
    for key in VTG_KEYS:
        # bool is an int in Python; as a frame index it is a mistake
        if not isinstance(value.get(key), int) or isinstance(value.get(key), bool):
            return None, f"the <VTG> has no integer {key!r}"
    return Grounding(value["start"], value["end"], value["keyframe"]), None


def clamp(grounding: Grounding, num_frames: int) -> Grounding:
    """Every index moved into 0..num_frames-1; start and end are not swapped."""
    last = num_frames - 1
    start, end, keyframe = (min(max(v, 0), last) for v in (grounding.start, grounding.end, grounding.keyframe))
    return Grounding(start, end, keyframe)


def query_of(sample: Sample) -> str:
    """The text of the sample's expression. Raises `DataError` if it holds control text, which corrupts a dialogue."""
    text = sample.expression.text
    for token in ("<|", SEG_TOKEN):
        if token in text:
            where = f"clip {sample.clip.name}, expression {sample.expression.id}"
            raise DataError(f"{where}: the expression {text!r} contains the control text {token!r}; edit the data set")
    return text
