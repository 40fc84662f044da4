"""What can be asked about a scene, each with exactly one right answer.

A kind is a function under ``@expression_kind`` that lists every expression of that kind the scene supports without
doubt; where a margin is too small to see, it lists none. Indices are those of ``scene.objects``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_construction.synthetic.facts import SceneFacts
from data_construction.synthetic.objects import COLORS, DIRECTIONS, SHAPES, STILL
from rollout.errors import RecipeError

REFERRING, REASONING, NO_TARGET = 0, 1, 2
"""ReVOS ``type_id``."""
SIZE_RATIO = 1.25
"""Two areas differ visibly from this ratio on."""
SIDE_MARGIN = 0.1
"""Two positions differ visibly from this share of the frame's side on."""
TIME_MARGIN = 2
"""Frames between two events that are to be told apart."""
MOVED_MARGIN = 0.12
NUMBERS = {2: "two", 3: "three", 4: "four"}


@dataclass(frozen=True)
class Candidate:
    """An expression that the scene supports."""

    kind: str
    text: str
    targets: tuple[int, ...]
    type_id: int
    legible: tuple[int, ...] = ()
    """Frames in which what it names can be told, where that is fewer than those in which it is visible."""


Lister = Callable[[SceneFacts], Iterable[tuple[str, tuple[int, ...]]]]
KINDS: dict[str, tuple[int, Lister]] = {}
DEFAULT_KINDS: dict[str, float] = {
    "attribute": 4,
    "position": 1,
    "motion": 1,
    "temporal": 1.5,
    "comparison": 1,
    "count": 1,
    "negation": 1,
    "no_target": 0.5,
}
"""Expressions wanted of each kind a clip; a fraction is a chance."""


def expression_kind(name: str, type_id: int) -> Callable[[Lister], Lister]:
    """Register a kind under its name with its ReVOS type."""

    def register(lister: Lister) -> Lister:
        KINDS[name] = (type_id, lister)
        return lister

    return register


def wanted_kinds(
    kinds: Iterable[str] | Mapping[str, float] | None,
    default: Mapping[str, float] = DEFAULT_KINDS,
    known: Iterable[str] | None = None,
) -> dict[str, float]:
    """Numbers a clip by kind: None = all by default, names = those by default, a mapping = as it says.

    default, known: a world's own kinds; by default those registered here.
    """
    if kinds is None:
        return dict(default)
    if isinstance(kinds, Mapping):
        wanted = {k: float(n) for k, n in kinds.items()}
    else:
        wanted = {k: default.get(k, 1.0) for k in kinds}
    names = tuple(KINDS if known is None else known)
    unknown = [k for k in wanted if k not in names]
    if unknown or not any(n > 0 for n in wanted.values()) or min(wanted.values()) < 0:
        raise RecipeError(f"expression kinds {wanted}: names must be among {', '.join(names)}, numbers >= 0, one > 0")
    return wanted


def list_candidates(facts: SceneFacts, kind: str) -> list[Candidate]:
    """Every expression of one kind."""
    type_id, lister = KINDS[kind]
    return [Candidate(kind, text, targets, type_id) for text, targets in lister(facts)]


def choose_expressions(facts: SceneFacts, wanted: Mapping[str, float], rng: np.random.Generator) -> list[Candidate]:
    """A draw of the scene's candidates with the numbers ``wanted``; never empty if there is any candidate."""
    chosen: list[Candidate] = []
    spare: list[Candidate] = []
    for kind, number in wanted.items():
        found = list_candidates(facts, kind)
        take = int(number) + int(rng.random() < number - int(number))
        picks = set(rng.permutation(len(found))[:take].tolist())
        chosen += [c for i, c in enumerate(found) if i in picks]
        spare += found if number > 0 else []
    return chosen or spare[:1]


@expression_kind("attribute", REFERRING)
def attribute(facts: SceneFacts) -> Iterable[tuple[str, tuple[int, ...]]]:
    """Colour and shape; no two objects of a scene share both."""
    for k, obj in enumerate(facts.objects):
        yield f"the {obj.name}", (k,)


@expression_kind("position", REFERRING)
def position(facts: SceneFacts) -> Iterable[tuple[str, tuple[int, ...]]]:
    """Extreme centre of the visible pixels in frame T // 2, among the shapes visible there (two or more)."""
    centres = facts.centres[:, facts.num_frames // 2]
    there = [k for k in range(len(facts.objects)) if not np.isnan(centres[k, 0])]
    for word, axis, sign in (("leftmost", 0, 1), ("rightmost", 0, -1), ("highest", 1, 1), ("lowest", 1, -1)):
        ranked = sorted(there, key=lambda k: sign * centres[k, axis])
        if len(ranked) >= 2 and abs(centres[ranked[1], axis] - centres[ranked[0], axis]) >= SIDE_MARGIN * facts.size:
            yield f"the {word} shape in the middle frame", (ranked[0],)


@expression_kind("motion", REFERRING)
def motion(facts: SceneFacts) -> Iterable[tuple[str, tuple[int, ...]]]:
    """The only shape with that direction, if it moves far enough while visible; or the only one at rest."""
    for direction in (*DIRECTIONS, STILL):
        same = [k for k, o in enumerate(facts.objects) if o.direction == direction]
        if len(same) != 1:
            continue
        if direction == STILL:
            # "Still" is only plain if everything else clearly moves.
            if all(facts.moved(k) >= MOVED_MARGIN * facts.size for k in range(len(facts.objects)) if k != same[0]):
                yield "the shape that stands still", (same[0],)
        elif facts.moved(same[0]) >= MOVED_MARGIN * facts.size:
            yield f"the shape moving {direction}", (same[0],)


@expression_kind("temporal", REASONING)
def temporal(facts: SceneFacts) -> Iterable[tuple[str, tuple[int, ...]]]:
    """First and last visible frames, in scenes where nothing is hidden in between (it would seem to leave)."""
    if not facts.unbroken:
        return
    first, last, everyone = facts.first, facts.last, range(len(facts.objects))
    order = sorted(everyone, key=lambda k: -first[k])
    if first[order[0]] >= first[order[1]] + TIME_MARGIN:
        yield "the shape that appears last", (order[0],)
    order = sorted(everyone, key=lambda k: last[k])
    if last[order[0]] <= last[order[1]] - TIME_MARGIN:
        yield "the shape that leaves first", (order[0],)
    for a in everyone:
        later = [k for k in everyone if first[k] > last[a]]
        others = [k for k in everyone if k != a and k not in later]
        if len(later) == 1 and all(first[k] <= last[a] - TIME_MARGIN for k in others):
            yield f"the shape that appears after the {facts.objects[a].name} has left", (later[0],)
        earlier = [k for k in everyone if last[k] < first[a]]
        others = [k for k in everyone if k != a and k not in earlier]
        if len(earlier) == 1 and all(last[k] >= first[a] + TIME_MARGIN for k in others):
            yield f"the shape that leaves before the {facts.objects[a].name} appears", (earlier[0],)


@expression_kind("comparison", REASONING)
def comparison(facts: SceneFacts) -> Iterable[tuple[str, tuple[int, ...]]]:
    """Area, both of the whole shape and of the most that is ever visible of it."""
    groups = [(list(range(len(facts.objects))), "the largest shape", "the smallest shape")]
    for shape in SHAPES:
        same = [k for k, o in enumerate(facts.objects) if o.shape == shape]
        if len(same) == 2:
            groups.append((same, f"the larger {shape}", f"the smaller {shape}"))
    whole = np.array([o.nominal_area for o in facts.objects])
    for members, large, small in groups:
        for text, sign in ((large, 1), (small, -1)):
            extreme = _extreme(whole, members, sign)
            if extreme is not None and extreme == _extreme(facts.peak, members, sign):
                yield text, (extreme,)


def _extreme(areas: NDArray[np.floating] | NDArray[np.integer], members: list[int], sign: int) -> int | None:
    """The largest (sign 1) or smallest (-1) of ``members`` if it differs visibly from the next."""
    ranked = sorted(members, key=lambda k: -sign * areas[k])
    small, large = sorted((areas[ranked[0]], areas[ranked[1]]))
    return ranked[0] if large >= SIZE_RATIO * small else None


@expression_kind("count", REASONING)
def count(facts: SceneFacts) -> Iterable[tuple[str, tuple[int, ...]]]:
    """Several objects at once, by colour or by shape; the number is the exact one."""
    for color in COLORS:
        same = tuple(k for k, o in enumerate(facts.objects) if o.color == color)
        if len(same) >= 2:
            yield f"the {NUMBERS[len(same)]} {color} shapes", same
    for shape in SHAPES:
        same = tuple(k for k, o in enumerate(facts.objects) if o.shape == shape)
        if len(same) >= 2:
            yield f"all {shape}s", same
            yield f"the {NUMBERS[len(same)]} {shape}s", same


@expression_kind("negation", REASONING)
def negation(facts: SceneFacts) -> Iterable[tuple[str, tuple[int, ...]]]:
    """What is left of a group of two or more when one property is excluded, if that is exactly one object."""
    objects = facts.objects
    for k, obj in enumerate(objects):
        others = [o for i, o in enumerate(objects) if i != k]
        same_shape = [o for o in others if o.shape == obj.shape]
        if same_shape and len({o.color for o in same_shape}) == 1 and same_shape[0].color != obj.color:
            yield f"the {obj.shape} that is not {same_shape[0].color}", (k,)
        same_color = [o for o in others if o.color == obj.color]
        if same_color and len({o.shape for o in same_color}) == 1 and same_color[0].shape != obj.shape:
            yield f"the {obj.color} shape that is not a {same_color[0].shape}", (k,)
        if len({o.shape for o in others}) == 1 and others[0].shape != obj.shape:
            yield f"the shape that is not a {others[0].shape}", (k,)


@expression_kind("no_target", NO_TARGET)
def no_target(facts: SceneFacts) -> Iterable[tuple[str, tuple[int, ...]]]:
    """A colour and shape that no object has; often its colour or its shape alone is there."""
    there = {o.name for o in facts.objects}
    for color in COLORS:
        for shape in SHAPES:
            if f"{color} {shape}" not in there:
                yield f"the {color} {shape}", ()
