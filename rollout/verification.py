"""How a policy judges its own masks once it has seen them, and which answer then stands.

A verdict is read beyond the thought: ``<answer>confirm</answer>``, ``<answer>no target</answer>``, or a whole new
answer in the protocol of the dialogue. What cannot be read changes nothing: the first answer stands.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rollout.reading import beyond_thought, plain_marks
from rollout.types import Episode, Verdict

FRAMES = "verify_frames"
"""The setting of an environment with a verification turn: how many frames are shown beside the keyframe."""
_ANSWER = re.compile(r"<\s*answer\s*>(.*?)<\s*/\s*answer\s*>", re.DOTALL | re.IGNORECASE)
_SAID = {
    **dict.fromkeys(("confirm", "confirmed", "i confirm", "correct", "yes"), Verdict.CONFIRMED),
    **dict.fromkeys(("no target", "no object", "none", "nothing"), Verdict.NO_TARGET),
}


@dataclass(frozen=True)
class MasksWanted:
    """An environment waits for what the segmenter draws of the answer so far, in these frames of the clip."""

    frames: tuple[int, ...]


def read_verdict(text: str) -> Verdict | None:
    """``confirmed`` or ``no_target``, as the first answer that says so; None for anything else. Never raises."""
    for place in beyond_thought(plain_marks(text)):
        for body in _ANSWER.findall(place):
            found = _SAID.get(re.sub(r"[\s_\-]+", " ", body).strip(" .!\"'").lower())
            if found is not None:
                return found
    return None


def first_answer(episode: Episode) -> Episode:
    """The dialogue as it was before its policy saw its own masks."""
    return episode if episode.verdict is None else replace(episode, turns=episode.turns[:-1], verdict=None)


def last_answer(episode: Episode) -> Episode:
    """The dialogue of the answer that stands: the first, or the turn that corrected it or took it back, alone."""
    if episode.verdict in (Verdict.CORRECTED, Verdict.NO_TARGET):
        return replace(episode, turns=episode.turns[-1:], verdict=None)
    return first_answer(episode)


def turns_of_last_answer(episode: Episode) -> slice:
    """Which of the dialogue's turns those of `last_answer` are."""
    total = len(episode.turns)
    if episode.verdict in (Verdict.CORRECTED, Verdict.NO_TARGET):
        return slice(total - 1, total)
    return slice(0, total if episode.verdict is None else total - 1)


def others(num_frames: int, count: int, keyframe: int) -> Sequence[int]:
    """The keyframe and at most ``count`` other frames, evenly spaced, in order. By numbers alone, never by contents."""
    from rollout.frames import evenly_spaced

    even = evenly_spaced(0, num_frames - 1, min(count, num_frames)) if count else []
    return sorted({keyframe, *even})
