"""Traces for expressions that only a close look answers: find when marks are shown, look there, read them, name one.

The writer knows the answer, as a model that is told the ground truth does: it lists the marks even where its keyframe
does not show them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from data_construction.cot.habits import Habits
from data_construction.cot.tracks import SceneObject
from rollout.errors import DataError
from rollout.protocol import format_turn
from rollout.types import Action, Grounding, Sample

MARGIN = 4
"""A good interval begins and ends at most so many frames outside the legible ones."""
Reply = Callable[[str, Grounding], None]


def closeup_turns(
    sample: Sample,
    objects: Sequence[SceneObject],
    shown: Sequence[int],
    habits: Habits,
    wrong_name: float,
    rng: np.random.Generator,
) -> tuple[list[tuple[str, Grounding]], bool]:
    """The two replies with their choices, and whether the object named is a wrong one.

    ``shown``: the low-resolution frames of the first message.
    Raises DataError for a target without a mark.
    """
    target = next((o for o in objects if o.anno_id in sample.expression.anno_ids), None)
    if target is None or not target.mark:
        raise DataError(f"clip {sample.clip.name}, {sample.id}: its target has no mark to plan a close look from")
    legible, total = sorted(sample.expression.legible), sample.clip.num_frames
    middle = legible[len(legible) // 2]
    choice = habits.first_choice(middle, total, rng) or Grounding(
        max(0, legible[0] - int(rng.integers(MARGIN + 1))),
        min(total - 1, legible[-1] + int(rng.integers(MARGIN + 1))),
        int(rng.choice(legible)),
    )
    others = [o for o in objects if o is not target]
    noisy = bool(others) and rng.random() < wrong_name
    named = others[int(rng.integers(len(others)))] if noisy else target
    when = f"they turn from {choice.start} to {choice.end}."
    seen = f"Step 1: {sighting(objects, shown)}, {when}"
    first = f"{seen} Step 2: no mark is clear. Step 3: query about {target.mark}. Action: look again"
    last = f"Step 1: {when} {reading(objects, target.mark, named.name)}. Action: confirmed"
    turns = [(format_turn(first, Action.SELECT, choice), choice), (format_turn(last, Action.ANSWER, choice), choice)]
    return turns, noisy


def sighting(objects: Sequence[SceneObject], shown: Sequence[int]) -> str:
    """Which of the frames shown have the objects near: at least halfway between their least and their largest area."""
    areas = np.sum([o.areas for o in objects], axis=0)
    near = [str(t) for t in shown if 2 * areas[t] >= areas.min() + areas.max()]
    return f"near at {' '.join(near) or 'none'}"


def reading(objects: Sequence[SceneObject], mark: str, name: str) -> str:
    """The steps that list the marks and name the one asked for.

    Each mark stands before its place, in the list as in the name: a small model answers by repeating what followed it.
    """
    seen = ", ".join(f"{o.mark} {o.name}" for o in objects)
    return f"Step 2: {seen}. Step 3: query about {mark} {name}"
