"""Kept rollouts in W&B and TensorBoard: a table with masks to switch on and off, and the same as images.

Runs in the keeper's thread. What it logs joins the metrics of the step that verl logs next, so that the two never argue
about whose step it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.report.images import GT_COLOUR, PRED_COLOUR, decode, inside_and_outline, overlay, read_thumbnail
from verl_ext.rollout_log.records import KeptGroup, KeptRollout

SIDE = 224
"""Longer side of a frame, in pixels."""
COLUMNS = ("step", "sample", "expression", "rollout", "ended", "reward", "advantage", "turns", "dialogue", "masks")


@dataclass(frozen=True)
class Shown:
    """A rollout that is worth a picture: a group's best, or its worst."""

    group: KeptGroup
    rollout: KeptRollout
    number: int
    place: str
    """``best`` or ``worst``."""


def best_and_worst(groups: Sequence[KeptGroup]) -> Iterator[Shown]:
    """Of each group; of one alone, or of equal rewards, the first."""
    for group in groups:
        ranked = sorted(enumerate(group.rollouts), key=lambda r: -r[1].rewards.get("total", 0.0))
        if ranked:
            yield Shown(group, ranked[0][1], ranked[0][0] + 1, "best")
        if len(ranked) > 1 and ranked[-1][1].rewards.get("total") != ranked[0][1].rewards.get("total"):
            yield Shown(group, ranked[-1][1], ranked[-1][0] + 1, "worst")


def publish(loggers: Mapping[str, Any], step: int, groups: Sequence[KeptGroup]) -> None:
    """``loggers``: verl's, by name. Raises DataError for a frame that cannot be read."""
    senders = {"wandb": _to_wandb, "tensorboard": _to_tensorboard}
    shown = list(best_and_worst(groups))
    for name, send in senders.items():
        if name in loggers and shown:
            send(loggers[name], step, shown)


def film_strip(group: KeptGroup, rollout: KeptRollout) -> NDArray[np.uint8]:
    """(h, frames x w, 3): the frames that the last turn drew, its masks on them, the ground truth's outline."""
    masks = rollout.turns[-1].masks if rollout.turns else {}
    frames = sorted(masks) or list(group.spatial_frames) or [group.clip.num_frames // 2]
    return np.concatenate([_drawn(group, t, masks.get(t)) for t in frames], axis=1)


def _drawn(group: KeptGroup, t: int, rle: Any) -> NDArray[np.uint8]:
    clip = group.clip
    frame = read_thumbnail(clip.frames[t], SIDE)
    drawn = overlay(frame, decode(rle, clip.height, clip.width, f"{group.sample}, frame {t}"), PRED_COLOUR)
    truth = decode(group.truth.get(t), clip.height, clip.width, f"{group.sample}, ground truth of frame {t}")
    drawn[inside_and_outline(truth, *frame.shape[:2])[1]] = GT_COLOUR
    return drawn


def _to_tensorboard(adapter: Any, step: int, shown: Sequence[Shown]) -> None:
    """Slots ``group 1, best`` ...: TensorBoard draws a slider over the steps of each."""
    slots: dict[str, int] = {}
    for one in shown:
        slot = slots.setdefault(one.group.sample, len(slots) + 1)
        tag = f"rollouts/group {slot}, {one.place}"
        adapter.writer.add_image(tag, film_strip(one.group, one.rollout), step, dataformats="HWC")
        adapter.writer.add_text(tag, _as_code(_words(one)), step)


def _to_wandb(wandb: Any, step: int, shown: Sequence[Shown]) -> None:
    rows = [_row(wandb, step, one) for one in shown]
    wandb.log({"rollouts": wandb.Table(columns=list(COLUMNS), data=rows)}, commit=False)


def _row(wandb: Any, step: int, one: Shown) -> list[Any]:
    r, g = one.rollout, one.group
    head = [step, g.sample, g.text, one.number, r.stop.value, r.rewards.get("total"), r.advantage, len(r.turns)]
    return [*head, "\n\n".join(t.text for t in r.turns), _picture(wandb, one)]


def _picture(wandb: Any, one: Shown) -> Any:
    """The last turn's keyframe, with masks that W&B switches on and off."""
    group, turns = one.group, one.rollout.turns
    t = turns[-1].keyframe if turns else group.clip.num_frames // 2
    frame = read_thumbnail(group.clip.frames[t], SIDE)
    size, where = frame.shape[:2], f"{group.sample}, frame {t}"
    layers = {"policy": turns[-1].masks.get(t) if turns else None, "ground truth": group.truth.get(t)}
    masks = {}
    for number, (name, rle) in enumerate(layers.items(), start=1):
        inside, _ = inside_and_outline(decode(rle, group.clip.height, group.clip.width, where), *size)
        masks[name] = {"mask_data": inside.astype(np.uint8) * number, "class_labels": {number: name}}
    return wandb.Image(frame, masks=masks, caption=f"frame {t}")


def _words(one: Shown) -> str:
    r = one.rollout
    rewards = ", ".join(f"{name} {value:.2f}" for name, value in r.rewards.items())
    return f"{one.group.sample}: {one.group.text}\n{r.stop.value}; {rewards}\n\n" + "\n\n".join(t.text for t in r.turns)


def _as_code(text: str) -> str:
    """TensorBoard renders Markdown: an indented block stays as it was written."""
    return "\n".join(f"    {line}" for line in text.splitlines())
