"""What one finished expression leaves behind: the dialogue, the frames it saw, the masks it predicted."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from rollout.errors import DataError
from rollout.types import RLE, Action, Grounding, StopReason


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

    @property
    def key(self) -> tuple[str, str]:
        return self.clip, self.expression_id

    @property
    def name(self) -> str:
        return f"{self.clip}/{self.expression_id}"

    @property
    def grounding(self) -> Grounding | None:
        """Interval and keyframe of the last turn, which the rewards judge too; None if it does not parse."""
        return self.turns[-1].grounding if self.turns else None

    def check(self, where: str) -> None:
        """Raise DataError if names could leave a folder or the prediction does not fit the clip."""
        check_name(self.clip, f"{where}: clip", nested=True)
        check_name(self.expression_id, f"{where}: expression id of clip {self.clip!r}", nested=False)
        if self.num_frames < 1 or self.height < 1 or self.width < 1:
            raise DataError(f"{where}: {self.name} has {self.num_frames} frames of {self.height}x{self.width} pixels")
        if len(self.prediction) != self.num_frames:
            raise DataError(f"{where}: {self.name} has {self.num_frames} frames but {len(self.prediction)} masks")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; RLE counts as text."""
        out = asdict(self)
        out["stop"] = self.stop.value
        for turn in out["turns"]:
            turn["action"] = None if turn["action"] is None else turn["action"].value
        out["prediction"] = [None if rle is None else _plain_rle(rle) for rle in self.prediction]
        return out

    @staticmethod
    def from_dict(d: Any, where: str) -> ResultRecord:
        """The record of one parsed line. Raises DataError with ``where`` and the field that is wrong."""
        _check_fields(d, ResultRecord, where)
        try:
            turns = tuple(_turn(turn, f"{where}, turn {i}") for i, turn in enumerate(d["turns"]))
            values = {**d, "turns": turns, "stop": StopReason(d["stop"])}
            values["spatial_frames"], values["prediction"] = tuple(d["spatial_frames"]), tuple(d["prediction"])
            record = ResultRecord(**values)
        except (TypeError, ValueError) as error:
            raise error if isinstance(error, DataError) else DataError(f"{where}: {error}") from error
        for name, kind in (("clip", str), ("expression_id", str), ("num_frames", int), ("height", int), ("width", int)):
            if not isinstance(d[name], kind):
                raise DataError(f"{where}: {name!r} must be {kind.__name__}, found {d[name]!r}")
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
    _check_fields(d, TurnRecord, where)
    grounding = None if d["grounding"] is None else Grounding(**d["grounding"])
    action = None if d["action"] is None else Action(d["action"])
    return TurnRecord(**{**d, "grounding": grounding, "action": action, "frames_shown": tuple(d["frames_shown"])})


def _check_fields(d: Any, kind: type[Any], where: str) -> None:
    if not isinstance(d, dict):
        raise DataError(f"{where}: expected an object of {kind.__name__}, found {type(d).__name__}")
    names = {field.name for field in fields(kind)}
    if set(d) != names:
        missing, unknown = sorted(names - set(d)), sorted(set(d) - names)
        raise DataError(f"{where}: not a {kind.__name__}: missing {missing}, unknown {unknown}")


def _plain_rle(rle: RLE) -> RLE:
    counts = rle["counts"]
    plain = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [int(n) for n in rle["size"]], "counts": plain}
