"""What one finished expression leaves behind: the dialogue, the frames it saw, the masks it predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from eval.results.record_types import OPTIONAL, RECORD, TURN, check_object
from rollout.box_protocol import parse_box_turn
from rollout.errors import DataError
from rollout.types import RLE, Action, Grounding, StopReason, Verdict


@dataclass(frozen=True)
class TurnRecord:
    """One assistant message and what it was shown. Frame indices count from 0."""

    text: str
    action: Action | None
    """None if the message has no action tag, or more than one."""
    grounding: Grounding | None
    """As the policy wrote it; None if it does not parse."""
    keyframe: int
    """The frame that this turn's ``[SEG]`` decodes."""
    frames_shown: tuple[int, ...]
    """The frames attached to the message that this turn answers."""
    images: int
    """How many images that message held."""

    @property
    def has_boxes(self) -> bool:
        """Whether an answer of a keyframe and boxes (Veason-R1), which knows no interval, can be read here."""
        return self.grounding is None and parse_box_turn(self.text).answer is not None

    @property
    def chosen(self) -> int | None:
        """The frame that the turn chose, as the policy wrote it; None if nothing can be read, or if a box answer names
        a second that could not be looked at (``keyframe`` is then the clip's middle, and there is no action)."""
        if self.grounding is not None:
            return self.grounding.keyframe
        return self.keyframe if self.action is Action.ANSWER and self.has_boxes else None


@dataclass(frozen=True)
class ResultRecord:
    """One line of a results file; ``prediction`` has one RLE, or None for an empty mask, for each of T frames."""

    clip: str
    expression_id: str
    text: str
    type_id: int | None
    kind: str
    num_frames: int
    height: int
    width: int
    spatial_frames: tuple[int, ...]
    stop: StopReason
    turns: tuple[TurnRecord, ...]
    prediction: tuple[RLE | None, ...]
    rewards: dict[str, float] | None = None
    tokens: int = 0
    """Tokens that the policy wrote, over all turns."""
    objects: tuple[tuple[RLE | None, ...], ...] | None = None
    """The prediction object by object, (T,) masks each, where it is not that of one object; () if none was predicted.
    None: one object, whose masks are ``prediction``, as in files that know nothing else."""
    drawn_by: str | None = None
    """Which of the answer's prompts drew its masks (`rewards.segmenter.types.DrawnBy`); None where it could be one
    alone."""
    verdict: str | None = None
    """What the last turn said of the masks of the answer before it (`rollout.types.Verdict`); None where it is one
    itself."""

    @property
    def key(self) -> tuple[str, str]:
        return self.clip, self.expression_id

    @property
    def name(self) -> str:
        return f"{self.clip}/{self.expression_id}"

    @property
    def chosen(self) -> int | None:
        """The keyframe of the answer that stands, see `TurnRecord.chosen`."""
        return None if self.standing is None else self.standing.chosen

    @property
    def standing(self) -> TurnRecord | None:
        """The turn whose answer stands: the last one, or that before a verdict which changed nothing."""
        if not self.turns:
            return None
        kept = self.verdict in (Verdict.CONFIRMED, Verdict.UNREAD) and len(self.turns) > 1
        return self.turns[-2 if kept else -1]

    @property
    def tracks(self) -> tuple[tuple[RLE | None, ...], ...]:
        """One track an object."""
        return (self.prediction,) if self.objects is None else self.objects

    @property
    def failed(self) -> bool:
        """Whether the dialogue could not begin: nothing was said, so its empty masks are no answer."""
        return not self.turns or self.stop is StopReason.REFUSED_CLIP

    def check(self, where: str) -> None:
        """Raise DataError if names could leave a folder or the prediction does not fit the clip."""
        check_name(self.clip, f"{where}: clip", nested=True)
        check_name(self.expression_id, f"{where}: expression id of clip {self.clip!r}", nested=False)
        if self.num_frames < 1 or self.height < 1 or self.width < 1:
            raise DataError(f"{where}: {self.name} has {self.num_frames} frames of {self.height}x{self.width} pixels")
        if len(self.prediction) != self.num_frames:
            raise DataError(f"{where}: {self.name} has {self.num_frames} frames but {len(self.prediction)} masks")
        for o, track in enumerate(self.objects or ()):
            if len(track) != self.num_frames:
                what = f"{self.num_frames} frames but {len(track)} masks of object {o}"
                raise DataError(f"{where}: {self.name} has {what}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; RLE counts as text."""
        out = asdict(self)
        out["stop"] = self.stop.value
        for turn in out["turns"]:
            turn["action"] = None if turn["action"] is None else turn["action"].value
        out["prediction"] = _plain_track(self.prediction)
        del out["objects"]
        for name in ("drawn_by", "verdict"):
            if out[name] is None:
                del out[name]
        if self.objects is not None:
            out["objects"] = [_plain_track(track) for track in self.objects]
        return out

    @staticmethod
    def from_dict(d: Any, where: str) -> ResultRecord:
        """The record of one parsed line. Raises DataError with ``where`` and the field that is wrong."""
        check_object(d, RECORD, "ResultRecord", where, OPTIONAL)
        try:
            turns = tuple(_turn(turn, f"{where}, turn {i}") for i, turn in enumerate(d["turns"]))
            values = {**d, "turns": turns, "stop": StopReason(d["stop"])}
            values["spatial_frames"], values["prediction"] = tuple(d["spatial_frames"]), tuple(d["prediction"])
            if d.get("objects") is not None:
                values["objects"] = tuple(tuple(track) for track in d["objects"])
            record = ResultRecord(**values)
        except DataError:
            raise
        except ValueError as error:  # no such stop reason, no such action
            raise DataError(f"{where}: {error}") from error
        record.check(where)
        return record


def check_name(name: str, what: str, *, nested: bool) -> None:
    """Refuse a name that is no plain relative path: results become folders and files under such names.

    ``nested`` allows forward slashes between ordinary parts, as some benchmarks' clip names have them.
    """
    parts = name.split("/") if nested else [name]
    bad = any(part in ("", ".", "..") or part != part.strip() for part in parts)
    if bad or any(c in name for c in "\\:\0" + ("" if nested else "/")) or not name.isprintable():
        raise DataError(f"{what} {name!r} is not a plain name: refused, it could point outside the output folder")


def _turn(d: Any, where: str) -> TurnRecord:
    check_object(d, TURN, "TurnRecord", where)
    grounding = None if d["grounding"] is None else Grounding(**d["grounding"])
    action = None if d["action"] is None else Action(d["action"])
    return TurnRecord(**{**d, "grounding": grounding, "action": action, "frames_shown": tuple(d["frames_shown"])})


def _plain_track(track: Sequence[RLE | None]) -> list[RLE | None]:
    return [None if rle is None else _plain_rle(rle) for rle in track]


def _plain_rle(rle: RLE) -> RLE:
    counts = rle["counts"]
    plain = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [int(n) for n in rle["size"]], "counts": plain}
