"""Replies that could not be carried out: how many, and why. A policy asked in the wrong words scores like a bad one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from eval.results.record import ResultRecord
from rollout.box_protocol import read_answer
from rollout.types import StopReason

CUT = "cut off at the token limit"
EMPTY = "empty"
NO_SECOND = "a second that the clip does not have"
NO_ACTION = "no <answer> or <select>"
NO_CONTENT = "an <answer> or <select> without indices or boxes that can be read"


def why_unreadable(record: ResultRecord) -> str:
    """Why the last reply of a dialogue could not be carried out; empty where it could, or nothing was said."""
    turn = record.standing
    if record.failed or turn is None or turn.action is not None:
        return ""
    text = turn.text
    if record.stop is StopReason.LENGTH:
        return CUT
    if not text.strip():
        return EMPTY
    if read_answer(text) is not None:
        return NO_SECOND
    tagged = any(tag in text.lower() for tag in ("<answer>", "<select>"))
    return NO_CONTENT if tagged else NO_ACTION


def unreadable_counts(reasons: Iterable[str]) -> dict[str, int]:
    """Reason -> how many, the most frequent first, of `why_unreadable` of each dialogue."""
    return dict(Counter(reason for reason in reasons if reason).most_common())


def unreadable_lines(counts: Mapping[str, int], dialogues: int, prompt_set: str = "") -> Iterator[str]:
    """For people: nothing if every reply could be read."""
    total = sum(counts.values())
    if not total:
        return
    why = ", ".join(f"{n} {reason}" for reason, n in counts.items())
    yield f"{total} of {dialogues} replies could not be read: {why}"
    if total == dialogues:
        asked = f"with prompt set {prompt_set} " if prompt_set else ""
        yield f"No reply could be read: was the policy, asked {asked}here, trained on other words (--prompts)?"
