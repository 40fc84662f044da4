"""What a turn looks like as text, and how a reply is read (SPEC 2.1: think, then exactly one action).

Reading a reply never raises: whatever the policy wrote becomes a `ParsedTurn`, with the first breach of the
protocol in ``problem``. An action can be carried out when ``action`` and ``grounding`` are both there, and they are
wherever they can be read; breaches (a missing think block, no ``[SEG]``, JSON in single quotes) are for the rewards to
judge.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from rollout.control_text import SEG_TOKEN
from rollout.reading import beyond_thought, field_of, load_json, plain_marks, read_objects, whole_number, without_marks
from rollout.types import Action, Grounding

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
VTG_KEYS = ("start", "end", "keyframe")

_THINK = re.compile(r"\s*<think>(.*?)</think>", re.DOTALL)
_ACTION_TAG = re.compile(r"</?(?:select|answer)>")
_ACTION = re.compile(r"<(select|answer)>(.*)</\1>", re.DOTALL)
_VTG = re.compile(r"<VTG>(.*?)</VTG>", re.DOTALL)
_REFSEG = re.compile(r"<RefSeg>(.*?)</RefSeg>", re.DOTALL)
_ANY_TAG = re.compile(r"<\s*(/?)\s*(select|answer)\s*>", re.IGNORECASE)
_LOOSE_VTG = re.compile(r"<\s*VTG\s*>(.*?)<\s*/\s*VTG\s*>", re.DOTALL | re.IGNORECASE)
_LOOSE_REFSEG = re.compile(r"<\s*RefSeg\s*>.*?<\s*/\s*RefSeg\s*>|\[SEG\]", re.DOTALL | re.IGNORECASE)


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
    """Reads one assistant message: strictly for ``problem``, as far as it can be read for ``action`` and ``grounding``.

    Of several actions in one message the first ``<select>`` is carried out (the policy looks again, as it would with
    the released evaluator), without one the first ``<answer>``.
    """
    turn = _strict_turn(text)
    if turn.think is None:  # what stands before a closing tag is a thought too
        turn = replace(turn, action=None, grounding=None)
    if turn.action is not None and turn.grounding is not None:
        return turn
    found = dict(_readable_actions(text))
    for action in Action:
        if action in found:
            return replace(turn, action=action, grounding=found[action])
    return turn


def _readable_actions(text: str) -> Iterator[tuple[Action, Grounding]]:
    """Actions with three indices beyond the thought, the first of a kind last; of the likeliest place that has any."""
    for place in beyond_thought(plain_marks(text)):
        found = [(a, grounding) for a, body in _blocks(place) if (grounding := _readable_grounding(body)) is not None]
        if found:
            yield from reversed(found)
            return


def _blocks(text: str) -> list[tuple[Action, str]]:
    """Closed action blocks in order. A tag that is not closed before the next one opens is prose; a closing tag that
    is left over from an action within an action makes it unclear what is meant: no blocks."""
    blocks: list[tuple[Action, str]] = []
    opened: re.Match[str] | None = None
    for tag in _ANY_TAG.finditer(text):
        if not tag[1]:
            opened = tag
        elif opened is not None and opened[2].lower() == tag[2].lower():
            blocks.append((Action(tag[2].lower()), text[opened.end() : tag.start()]))
            opened = None
        elif not blocks or blocks[-1][0] != tag[2].lower():
            return []
    return blocks


def _readable_grounding(body: str) -> Grounding | None:
    """Of the one object in the ``<VTG>``, or in the action itself where the tags are missing."""
    tagged = _LOOSE_VTG.findall(body)
    text = without_marks(tagged[0] if tagged else _LOOSE_REFSEG.sub(" ", body)).strip()
    if not text.endswith("}") and "}" in text:  # something else follows
        return None
    for value in read_objects(text):
        start, end, keyframe = (whole_number(field_of(value, key)) for key in VTG_KEYS)
        if start is not None and end is not None and keyframe is not None:
            return Grounding(start, end, keyframe)
    return None


def _strict_turn(text: str) -> ParsedTurn:
    """A turn that keeps to the protocol, or the first breach.

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
