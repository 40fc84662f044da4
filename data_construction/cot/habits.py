"""What an imperfect writer of traces does at stated rates: reinforcement can only add what the traces do not show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_construction.cot.tracks import UNNAMED, SceneObject
from rollout.types import Grounding

WRONG_REACH = 6
"""A wrong interval has so many frames on either side of its keyframe."""


@dataclass(frozen=True)
class Habits:
    """Shares of the traces whose first choice is made so; the rest choose as well as they can."""

    middle: float = 0.0
    """A too wide interval, one of three halves of the clip, with the keyframe at its very middle."""
    wrong: float = 0.0
    """An interval anywhere, with the keyframe at its middle."""

    def first_choice(self, best: int, total: int, rng: np.random.Generator) -> Grounding | None:
        """The habit's choice instead of one around frame ``best`` of ``total``; None to choose well.

        The three halves make a habit that greedy decoding shows: spread over all frames, its mode would be right.
        """
        if not (self.middle or self.wrong):
            return None  # and nothing is drawn, so that traces without habits are what they were
        drawn = rng.random()
        if drawn < self.middle:
            quarter = total / 4
            start = round(quarter * min(2, max(0, round((best - quarter) / quarter))))
            end = min(total - 1, start + total // 2)
            return Grounding(start, end, (start + end) // 2)
        if drawn < self.middle + self.wrong:
            keyframe = int(rng.integers(min(WRONG_REACH, total - 1), max(total - WRONG_REACH, 1 + WRONG_REACH)))
            keyframe = min(keyframe, total - 1)
            return Grounding(max(0, keyframe - WRONG_REACH), min(total - 1, keyframe + WRONG_REACH), keyframe)
        return None


def drawn_instead(
    targets: Sequence[str], objects: Sequence[SceneObject], share: float, rng: np.random.Generator
) -> tuple[str, ...]:
    """Whose masks a trace draws in the place of its target's: those of the first object that has the target's name.

    Empty in all but ``share`` of the calls for a later one, and for the first itself, for several targets or none, and
    where nothing is called alike. That the first is always drawn right keeps what was asked for in the ``[SEG]`` state:
    where either is drawn instead of the other, a policy learns to draw both and to look at the question no more.
    """
    if not share or len(targets) != 1:
        return ()  # and nothing is drawn, so that traces without the habit are what they were
    name = next((o.name for o in objects if o.anno_id in targets), UNNAMED)
    first = next((o.anno_id for o in objects if o.name == name != UNNAMED), targets[0])
    if first == targets[0] or rng.random() >= share:
        return ()
    return (first,)
