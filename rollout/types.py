"""The nouns that every other package speaks: clips, expressions, masklets, turns, episodes.

Shape legend: T frames of a clip, O objects (annotation ids) of an expression, H x W pixels.
Nothing here imports torch, Ray or verl; frames travel as paths and indices, masks as COCO RLE.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

RLE = dict[str, Any]
"""COCO run-length encoding: ``{"size": [H, W], "counts": str | bytes}``."""


def packed(rle: RLE) -> RLE:
    """As pycocotools takes it: the counts in bytes."""
    counts = rle["counts"]
    return {"size": rle["size"], "counts": counts.encode() if isinstance(counts, str) else counts}


def decode_rle(rle: RLE) -> NDArray[np.bool_]:
    """(H, W) bool."""
    from pycocotools import mask as coco_mask

    return coco_mask.decode(packed(rle)).astype(np.bool_)  # type: ignore[no-any-return]


class StopReason(StrEnum):
    """Why an episode ended. Closed: each value is also a metric ``stop/<value>``."""

    ANSWERED = "answered"
    TURN_LIMIT = "turn_limit"
    BAD_ACTION = "bad_action"
    BAD_INTERVAL = "bad_interval"
    CONTEXT_FULL = "context_full"
    LENGTH = "length"
    REFUSED_CLIP = "refused_clip"


class Action(StrEnum):
    """The one action tag that closes an assistant turn."""

    SELECT = "select"
    ANSWER = "answer"


@dataclass(frozen=True)
class Clip:
    """An ordered list of T frames on disk; sizes in pixels, ``fps`` the mean rate or None."""

    name: str
    frames: tuple[str, ...]
    height: int
    width: int
    fps: float | None = None
    times: tuple[float, ...] = ()
    """(T,) seconds from the first frame to each, where they are not evenly apart; else empty."""

    @property
    def num_frames(self) -> int:
        return len(self.frames)


@dataclass(frozen=True)
class StandIn:
    """What a policy is shown instead of its clip, to find out whether it looks; see `rollout.spoilt`."""

    clip: Clip
    """Whose frames are shown."""
    frames: tuple[int | None, ...]
    """By frame of the dialogue's clip: the one that is shown in its place; None for a plain grey picture."""


@dataclass(frozen=True)
class Expression:
    """A text query on a clip. ``kind`` is a data set's own finer label (``""`` if it has none)."""

    id: str
    text: str
    anno_ids: tuple[str, ...] = ()
    type_id: int | None = None
    """ReVOS: 0 referring, 1 reasoning, 2 no target."""
    kind: str = ""
    legible: tuple[int, ...] = ()
    """Frames in which what it names can be told, where a data set says so; fewer than those in which it is visible."""


@dataclass(frozen=True)
class Masklets:
    """Ground truth of one expression: ``rles[o][t]`` is object o in frame t, or None where absent."""

    height: int
    width: int
    rles: tuple[tuple[RLE | None, ...], ...]
    num_frames: int

    def union_rle(self, frame: int) -> RLE | None:
        """All objects of the expression in ``frame``, merged by OR without decoding; None where none has a mask."""
        from pycocotools import mask as coco_mask

        here = [packed(rle) for rles in self.rles if (rle := rles[frame]) is not None]
        return coco_mask.merge(here) if here else None

    def union(self, frame: int) -> NDArray[np.bool_]:
        """(H, W) bool: all objects of the expression in ``frame``, merged by OR."""
        return self._decoded(self.union_rle(frame))

    def object_mask(self, index: int, frame: int) -> NDArray[np.bool_]:
        """(H, W) bool: one object in ``frame``; empty where the data set has no mask."""
        return self._decoded(self.rles[index][frame])

    def areas(self) -> NDArray[np.int64]:
        """(T,) pixels covered by the union, per frame."""
        from pycocotools import mask as coco_mask

        unions = [self.union_rle(t) for t in range(self.num_frames)]
        return np.array([0 if rle is None else int(coco_mask.area(rle)) for rle in unions], dtype=np.int64)

    def existence(self) -> NDArray[np.uint8]:
        """(T,) 1 where any object is visible."""
        return (self.areas() > 0).astype(np.uint8)

    def _decoded(self, rle: RLE | None) -> NDArray[np.bool_]:
        return np.zeros((self.height, self.width), dtype=np.bool_) if rle is None else decode_rle(rle)


@dataclass(frozen=True)
class Sample:
    """One prompt: a clip, a question on it and, where known, its ground truth."""

    clip: Clip
    expression: Expression
    masklets: Masklets | None = None
    stand_in: StandIn | None = None
    """None: the clip's own frames."""

    @property
    def id(self) -> str:
        return f"{self.clip.name}/{self.expression.id}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, for parquet, JSONL and Ray."""
        return asdict(self)

    @staticmethod
    def from_dict(d: dict[str, Any]) -> Sample:
        m = d.get("masklets")
        c, e = dict(d["clip"]), dict(d["expression"])
        c["frames"], c["times"], e["anno_ids"] = tuple(c["frames"]), tuple(c.get("times", ())), tuple(e["anno_ids"])
        e["legible"] = tuple(e.get("legible", ()))
        if m is not None:
            m = Masklets(m["height"], m["width"], tuple(tuple(o) for o in m["rles"]), m["num_frames"])
        p = d.get("stand_in")
        if p is not None:
            p = StandIn(Clip(**{**p["clip"], "frames": tuple(p["clip"]["frames"])}), tuple(p["frames"]))
        return Sample(Clip(**c), Expression(**e), m, p)


@dataclass(frozen=True)
class Grounding:
    """The ``<VTG>`` of a turn: frame indices; both ends of the interval belong to it when frames are sampled."""

    start: int
    end: int
    keyframe: int


@dataclass
class Turn:
    """One assistant message and what the environment made of it."""

    text: str
    action: Action | None
    grounding: Grounding | None
    """As the policy wrote it, before clamping; None if it does not parse."""
    keyframe: int
    """The frame that this turn's ``[SEG]`` decodes: the keyframe *shown to* this turn (T // 2 for turn 0)."""
    seg_positions: list[int] = field(default_factory=list)
    """Positions of ``[SEG]`` in the conversation's token ids."""
    shown: tuple[int, ...] = ()
    """Frame indices that the user message before this turn showed, in order (a frame may be shown twice)."""


class Verdict(StrEnum):
    """What a policy made of its own masks, in a dialogue with a verification turn (`rollout.verification`)."""

    CONFIRMED = "confirmed"
    CORRECTED = "corrected"
    NO_TARGET = "no_target"
    UNREAD = "unread"


@dataclass
class Episode:
    """A finished dialogue."""

    turns: list[Turn]
    stop: StopReason
    spatial_frames: tuple[int, ...]
    """The initial high-resolution frames, on which every turn's ``[SEG]`` is also decoded."""
    num_frames: int
    verdict: Verdict | None = None
    """What the last turn said of the answer before it; None where it is no verification turn."""

    @property
    def texts(self) -> list[str]:
        return [t.text for t in self.turns]
