"""One turn's request to the writing model: the dialogue so far, and what it is to write now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from data_construction.cot import wording
from data_construction.cot.pictures import Picture
from rollout.messages import FramePart, Message
from rollout.types import Action, Grounding


@dataclass(frozen=True)
class TurnPlan:
    """A turn's decision and what is shown before it."""

    number: int
    message: Message
    """The user message before it."""
    action: Action
    grounding: Grounding
    facts: str
    """What ground truth says about the frames seen so far, in a few words."""
    tentative: bool
    """A bad choice, from which the next turn recovers."""
    corrects: Grounding | None
    """The bad choice of the turn before."""
    target: bool
    """False where nothing in the clip fits the query."""
    query: str


def request_messages(
    turns: Sequence[TurnPlan],
    replies: Sequence[str],
    picture: Callable[[FramePart, bool], Picture],
    marks: bool,
    max_chars: int,
    rejected: str = "",
) -> list[dict[str, Any]]:
    """The request for the last of ``turns``, after ``replies`` to those before.

    A turn that is to guess badly is shown no marks: with them it could not honestly guess.
    """
    now = turns[-1]
    marked = marks and not now.tentative
    messages: list[dict[str, Any]] = [{"role": "system", "content": wording.VTS_SYSTEM}]
    for turn, reply in zip(turns, [*replies, None], strict=True):
        content = [
            picture(p, marked).part() if isinstance(p, FramePart) else {"type": "text", "text": p.text}
            for p in turn.message.parts
        ]
        messages.append({"role": "user", "content": content})
        if reply is not None:
            messages.append({"role": "assistant", "content": reply})
    messages[-1]["content"].append({"type": "text", "text": _task(now, max_chars, rejected)})
    return messages


def _task(turn: TurnPlan, max_chars: int, rejected: str) -> str:
    last = turn.action is Action.ANSWER
    numbers = {"start": turn.grounding.start, "end": turn.grounding.end, "keyframe": turn.grounding.keyframe}
    situation = "" if turn.target else wording.NOTHING_FITS
    situation += wording.TENTATIVE if turn.tentative else ""
    situation += wording.CORRECTED.format(keyframe=turn.corrects.keyframe) if turn.corrects is not None else ""
    situation += wording.RETRY.format(reason=rejected) if rejected else ""
    return wording.VTS_TASK.format(
        turn=turn.number + 1,
        decision=wording.VTS_DECISIONS[last].format(**numbers),
        facts=turn.facts,
        situation=situation,
        max_chars=max_chars,
        action=wording.VTS_ACTIONS[last],
        **numbers,
    )
