"""What the pages show, whatever it was read from.

Shape legend: T frames of the clip. Frame indices count from 0; masks are COCO RLE at the clip's own size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rollout.errors import VideosegError
from rollout.types import RLE, Clip, Grounding


class NotThere(VideosegError):
    """A page about something that the folder does not hold, or holds damaged; the page says so."""


@dataclass(frozen=True)
class Entry:
    """One row of the list: a group of rollouts, an evaluated expression, a trace. Lists are one value a dialogue."""

    key: str
    """In page names: digits and hyphens."""
    sample: str
    clip: str
    text: str
    kind: str
    stops: Sequence[str]
    turns: Sequence[int]
    scores: Sequence[float | None]
    """Rewards, J&F; None where there is none."""
    step: int | None = None


@dataclass(frozen=True)
class TurnView:
    text: str
    action: str
    grounding: Grounding | None
    keyframe: int | None
    """The frame that this turn's mask belongs to, or that it chose."""
    shown: Sequence[int]
    masks: Mapping[int, RLE | None] = field(default_factory=dict)
    boxes: Sequence[Sequence[float]] = ()
    """x0, y0, x1, y1 as shares of the frame, on the keyframe."""


@dataclass(frozen=True)
class Dialogue:
    """One column of a group."""

    stop: str
    turns: Sequence[TurnView]
    rewards: Mapping[str, float | None] = field(default_factory=dict)
    advantage: float | None = None
    facts: Sequence[tuple[str, str]] = ()
    """Further numbers, as (name, value)."""
    answer: Mapping[int, RLE | None] = field(default_factory=dict)
    """Masks of the whole clip, where there are any; a turn's own are in the turn."""
    notes: Sequence[str] = ()

    @property
    def total(self) -> float | None:
        return self.rewards.get("total")


@dataclass(frozen=True)
class Group:
    """One page: a prompt and its dialogues side by side."""

    key: str
    sample: str
    text: str
    kind: str
    clip: Clip | None
    """None where the data set's folder was not given or lacks it: there are no pictures then."""
    visible: Sequence[bool]
    """(T,); empty without ground truth."""
    truth: Mapping[int, RLE | None]
    dialogues: Sequence[Dialogue]
    step: int | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Curve:
    """One metric over the steps; NaN where it was not measured."""

    title: str
    steps: Sequence[float]
    values: Sequence[float]
    section: str = ""


class Source(Protocol):
    """A folder that pages are made of. Reads what changed since it was last asked; keeps no frame and no mask."""

    title: str
    score_name: str
    """What ``Entry.scores`` are."""

    def stamp(self) -> str:
        """Another one after every change on disk."""
        ...

    def state(self) -> str:
        """``running``, ``finished`` or ``stopped``; empty for what does not run."""
        ...

    def entries(self) -> tuple[Sequence[Entry], Sequence[str]]:
        """All rows, and what could not be read."""
        ...

    def group(self, key: str) -> Group:
        """Raises NotThere."""
        ...

    def curves(self) -> Sequence[Curve]: ...

    def facts(self) -> Sequence[tuple[str, str]]:
        """Settings, as (name, value)."""
        ...


def number(value: Any, digits: int = 2) -> str:
    """For tables; a dash for None."""
    return "\N{EN DASH}" if value is None or value != value else f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")
