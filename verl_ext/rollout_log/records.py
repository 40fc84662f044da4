"""What is kept of a group: its prompt once, and every rollout's dialogue, masks, rewards and numbers.

Shape legend: T frames of the clip. Frame indices count from 0; masks are COCO RLE at the clip's own size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rollout.types import RLE, Action, Clip, Grounding, StopReason


@dataclass(frozen=True)
class LogProbs:
    """Over the tokens that the policy wrote, in nats; None where a run does not measure it."""

    tokens: int
    mean: float | None = None
    """Of the actor that the update starts from."""
    least: float | None = None
    entropy: float | None = None
    """Mean."""
    engine_gap: float | None = None
    """Largest absolute difference between the actor's and the rollout engine's."""
    kl: float | None = None
    """Mean of the update's own estimate (low_var_kl) to the reference."""


@dataclass(frozen=True)
class KeptTurn:
    """One assistant message, what it was shown, and its masks by frame."""

    text: str
    action: Action | None
    grounding: Grounding | None
    """As the policy wrote it; None if it does not parse."""
    keyframe: int
    """The frame that this turn's ``[SEG]`` decodes."""
    shown: tuple[int, ...]
    masks: Mapping[int, RLE] = field(default_factory=dict)


@dataclass(frozen=True)
class KeptRollout:
    """One dialogue."""

    stop: StopReason
    turns: tuple[KeptTurn, ...]
    rewards: Mapping[str, float]
    """Every reward by name, and their weighted ``total``."""
    ious: Mapping[str, float]
    advantage: float
    log_probs: LogProbs
    versions: tuple[int, int]
    """Steps of the oldest and the newest weights that wrote it."""


@dataclass(frozen=True)
class KeptGroup:
    """All rollouts of one prompt in one step."""

    sample: str
    """``clip/expression``."""
    text: str
    kind: str
    clip: Clip
    spatial_frames: tuple[int, ...]
    """The first message's high-resolution frames."""
    visible: tuple[bool, ...]
    """(T,) whether the target is there; empty without ground truth."""
    truth: Mapping[int, RLE | None]
    """Union of the target's objects, in the frames that any rollout was shown or drew."""
    rollouts: tuple[KeptRollout, ...]
    box_side: int | None = None
    """Of the square frames that a box policy answers in."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; numbers that are not finite become null, which JSON has a word for."""
        out = asdict(self)
        out["visible"] = "".join("1" if v else "0" for v in self.visible)
        out["truth"] = _plain_masks(self.truth)
        for rollout in out["rollouts"]:
            rollout["rewards"], rollout["ious"] = _finite(rollout["rewards"]), _finite(rollout["ious"])
            rollout["log_probs"] = _finite(rollout["log_probs"])
            rollout |= _finite({"advantage": rollout["advantage"]})
            for turn in rollout["turns"]:
                turn["masks"] = _plain_masks(turn["masks"])
        return out

    @staticmethod
    def from_dict(d: Mapping[str, Any]) -> KeptGroup:
        """Inverse of `to_dict`. Raises KeyError, TypeError or ValueError for what is no such group."""
        lists = {name: tuple(value) for name, value in d["clip"].items() if isinstance(value, list)}
        clip = Clip(**{**d["clip"], **lists})
        return KeptGroup(
            str(d["sample"]),
            str(d["text"]),
            str(d["kind"]),
            clip,
            tuple(map(int, d["spatial_frames"])),
            tuple(c == "1" for c in d["visible"]),
            _masks(d["truth"]),
            tuple(_rollout(r) for r in d["rollouts"]),
            d["box_side"],
        )


def _rollout(d: Mapping[str, Any]) -> KeptRollout:
    turns = tuple(_turn(t) for t in d["turns"])
    advantage = math.nan if d["advantage"] is None else float(d["advantage"])
    first, last = d["versions"]
    numbers = LogProbs(**d["log_probs"])
    return KeptRollout(StopReason(d["stop"]), turns, d["rewards"], d["ious"], advantage, numbers, (first, last))


def _turn(d: Mapping[str, Any]) -> KeptTurn:
    grounding = None if d["grounding"] is None else Grounding(**d["grounding"])
    action = None if d["action"] is None else Action(d["action"])
    masks = {t: rle for t, rle in _masks(d["masks"]).items() if rle is not None}
    return KeptTurn(str(d["text"]), action, grounding, int(d["keyframe"]), tuple(map(int, d["shown"])), masks)


def _masks(d: Mapping[str, Any]) -> dict[int, RLE | None]:
    return {int(t): rle for t, rle in d.items()}


def _plain_masks(masks: Mapping[int, RLE | None]) -> dict[str, RLE | None]:
    return {str(t): None if rle is None else _plain(rle) for t, rle in masks.items()}


def _plain(rle: RLE) -> RLE:
    counts = rle["counts"]
    return {
        "size": [int(n) for n in rle["size"]],
        "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
    }


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
