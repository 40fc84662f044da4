"""A group as its page draws it: pictures by name, bars in per cent, text split into thinking and the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.report.dialogue import split_turn
from eval.traces.clips import bars
from verl_ext.viewer.model import Dialogue, Group, TurnView
from verl_ext.viewer.pictures import SIDES, frame_problem, frame_size

SMALL, MIDDLE, LARGE = SIDES
MOST_SHOWN, MOST_DRAWN = 12, 9


@dataclass(frozen=True)
class Tile:
    """A frame and the layers over it, by name; sizes keep the page from moving while pictures load."""

    frame: int
    image: str
    mask: str | None
    truth: str | None
    width: int
    height: int
    is_keyframe: bool
    label: str


@dataclass(frozen=True)
class Bar:
    """A row of the time line, in per cent of its length."""

    label: str
    spans: Sequence[tuple[float, float]]
    css: str
    key: float | None = None
    words: str = ""


def group_view(side: str, group: Group) -> dict[str, Any]:
    """What the template needs."""
    names: list[str] = []
    for dialogue in group.dialogues:
        names += [n for n in dialogue.rewards if n not in names and n != "total"]
    best = max((d.total for d in group.dialogues if d.total is not None), default=None)
    return {
        "group": group,
        "side": side,
        "reward_names": names,
        "has_advantage": any(d.advantage is not None for d in group.dialogues),
        "has_total": best is not None,
        "columns": [_column(side, group, i, d) for i, d in enumerate(group.dialogues)],
        "notes": [*group.notes, *_missing(group)],
    }


def _missing(group: Group) -> list[str]:
    """Says once what many grey pictures would."""
    if group.clip is None:
        return []
    used = sorted({t for d in group.dialogues for turn in d.turns for t in (*turn.shown, *turn.masks)})
    gone = [t for t in used if 0 <= t < group.clip.num_frames and frame_problem(group.clip, t)]
    if not gone:
        return []
    return [
        f"{len(gone)} of {len(used)} frames are not where the run saw them, the first: {group.clip.frames[gone[0]]}. "
        "If the data were moved, say so with --moved OLD=NEW."
    ]


def _column(side: str, group: Group, number: int, dialogue: Dialogue) -> dict[str, Any]:
    turns = [_turn(side, group, number, n, t) for n, t in enumerate(dialogue.turns)]
    return {
        "number": number + 1,
        "dialogue": dialogue,
        "turns": turns,
        "bars": _bars(group, dialogue),
        "answer": _answer(side, group, number, dialogue),
    }


def _turn(side: str, group: Group, dialogue: int, n: int, turn: TurnView) -> dict[str, Any]:
    shown = _inside(group, turn.shown)
    drawn = _inside(group, sorted(turn.masks))
    if turn.boxes and turn.keyframe is not None and turn.keyframe not in drawn:
        drawn = sorted({*drawn, *_inside(group, [turn.keyframe])})
    keep = _spread(drawn, MOST_DRAWN, turn.keyframe)
    tiles = []
    for t in keep:
        mask = f"m-{side}-{group.key}-{dialogue}-{n}-{t}-{MIDDLE}.png" if t in turn.masks else None
        if mask is None and turn.boxes and t == turn.keyframe:
            mask = f"x-{side}-{group.key}-{dialogue}-{n}-{MIDDLE}.png"
        tiles.append(_tile(side, group, t, MIDDLE, mask, t == turn.keyframe))
    parts = split_turn(turn.text)
    return {
        "number": n + 1,
        "turn": turn,
        "thinking": parts.thinking,
        "rest": parts.rest,
        "shown": [_tile(side, group, t, SMALL, None, t == turn.keyframe) for t in _spread(shown, MOST_SHOWN)],
        "hidden": len(shown) - min(len(shown), MOST_SHOWN),
        "drawn": tiles,
        "choice": _choice(turn),
    }


def _choice(turn: TurnView) -> str:
    g = turn.grounding
    if g is not None:
        return f"frames {g.start} to {g.end}, keyframe {g.keyframe}"
    if turn.boxes:
        return f"{len(turn.boxes)} {'box' if len(turn.boxes) == 1 else 'boxes'}"
    return "no interval that parses"


def _answer(side: str, group: Group, number: int, dialogue: Dialogue) -> list[Tile]:
    """Evenly spaced frames of the whole clip."""
    frames = _spread(_inside(group, sorted(dialogue.answer)), MOST_DRAWN)
    return [
        _tile(side, group, t, MIDDLE, f"m-{side}-{group.key}-{number}-answer-{t}-{MIDDLE}.png", False) for t in frames
    ]


def _tile(side: str, group: Group, t: int, size: int, mask: str | None, is_keyframe: bool) -> Tile:
    assert group.clip is not None
    width, height = frame_size(group.clip, size)
    truth = f"t-{side}-{group.key}-{t}-{size}.png" if t in group.truth else None
    label = f"frame {t}" + (", keyframe" if is_keyframe else "")
    if t < len(group.visible):
        label += ", target visible" if group.visible[t] else ", no target"
    return Tile(t, f"f-{side}-{group.key}-{t}-{size}.jpg", mask, truth, width, height, is_keyframe, label)


def _bars(group: Group, dialogue: Dialogue) -> list[Bar]:
    total = group.clip.num_frames if group.clip is not None else len(group.visible)
    if not total:
        return []
    out = []
    if group.visible:
        seen = int(sum(group.visible))
        words = f"target visible in {seen} of {total} frames"
        out.append(Bar("target", bars(np.array(group.visible, np.bool_)), "truth", None, words))
    for n, turn in enumerate(dialogue.turns, start=1):
        g = turn.grounding
        if g is None:
            key = turn.keyframe if turn.boxes else None
            at = None if key is None else 100 * (min(max(key, 0), total - 1) + 0.5) / total
            out.append(Bar(f"turn {n}", (), "pick", at, f"turn {n}: {_choice(turn)}"))
            continue
        start, end, key = (min(max(v, 0), total - 1) for v in (g.start, g.end, g.keyframe))
        spans = ((100 * start / total, 100 * (end - start + 1) / total),) if end >= start else ()
        out.append(Bar(f"turn {n}", spans, "pick", 100 * (key + 0.5) / total, f"turn {n}: {_choice(turn)}"))
    return out


def _inside(group: Group, frames: Sequence[int]) -> list[int]:
    """Those that the clip has: a dialogue may be about a clip that has changed since."""
    return [] if group.clip is None else [t for t in frames if 0 <= t < group.clip.num_frames]


def _spread(frames: Sequence[int], most: int, always: int | None = None) -> list[int]:
    """At most so many, evenly, both ends among them."""
    if len(frames) <= most:
        return list(frames)
    kept = {frames[i] for i in np.linspace(0, len(frames) - 1, most).round().astype(int)}
    return sorted(kept | ({always} if always in frames and always is not None else set()))
