"""One chain-of-thought trace: a dialogue about one expression, with what it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rollout.errors import DataError
from rollout.types import Grounding

MASKS, BOXES = "videoseg_o3", "veason_r1"
METHODS = (MASKS, BOXES)
RATES, SIZES = (1e-3, 1e3), (1, 1 << 14)
"""Least and most frames a second; least and most of a side or a budget."""
TYPE_NAMES = {0: "referring", 1: "reasoning", 2: "no target", None: "untyped"}


@dataclass(frozen=True)
class Trace:
    """A view of one line of a trace file; ``raw`` is the line itself and is never changed."""

    raw: Mapping[str, Any]
    id: str
    """``<dataset>/<split>/<clip>/<expression id>``, with ``#n`` where an expression has several traces."""
    method: str
    dataset: str
    split: str
    clip: str
    expression_id: str
    text: str
    """The expression."""
    conversations: tuple[tuple[str, str], ...]
    """(from, value) with from one of system, human, gpt."""
    frames: tuple[int, ...]
    """VideoSEG-O3: the sharper frames of the first message; Veason-R1: the frames shown."""
    chosen: tuple[Grounding, ...]
    """What each turn chose, as the record says it; Veason-R1: none."""
    keyframe: int | None
    """Veason-R1's keyframe."""
    shown: Mapping[str, float] = field(default_factory=dict)
    """How frames were shown to whom wrote it, as far as the line says: ``side`` and ``fps`` (Veason-R1), the budgets
    ``low``, ``spatial`` and ``keyframe`` (VideoSEG-O3)."""

    @property
    def replies(self) -> list[str]:
        """The assistant turns' texts."""
        return [value for who, value in self.conversations if who == "gpt"]

    @property
    def kind(self) -> str:
        """The data set's own label, else the type in words."""
        return str(self.raw.get("kind") or "") or TYPE_NAMES.get(self.raw.get("type_id"), "untyped")

    @property
    def record(self) -> dict[str, Any]:
        return self.raw["record"]  # type: ignore[no-any-return]

    @staticmethod
    def from_dict(raw: Any, where: str) -> Trace:
        """Raises DataError that begins with ``where`` and says which key is missing or of the wrong kind."""
        if not isinstance(raw, dict):
            raise DataError(f"{where}: not a trace but a {type(raw).__name__}; wants one JSON object a line")
        missing = [key for key in ("id", "method", "dataset", "split", "clip", "expression_id") if key not in raw]
        if missing or not isinstance(raw.get("record"), dict):
            key = missing[0] if missing else "record"
            raise DataError(f"{where}: not a trace: no {key!r}; give a traces.jsonl that `videoseg data cot` wrote")
        if raw["method"] not in METHODS:
            raise DataError(f"{where}: method {raw['method']!r}; known are {', '.join(METHODS)}")
        record = raw["record"]
        if not isinstance(raw.get("anno_id", []), list):
            raise DataError(f"{where}: trace {raw['id']}: anno_id is {raw['anno_id']!r}; wants a list")
        try:
            boxes = raw["method"] == BOXES
            return Trace(
                raw=raw,
                id=str(raw["id"]),
                method=raw["method"],
                dataset=str(raw["dataset"]),
                split=str(raw["split"]),
                clip=str(raw["clip"]),
                expression_id=str(raw["expression_id"]),
                text=str(raw.get("exp", record.get("exp", ""))),
                conversations=tuple((_text(c["from"]), _text(c["value"])) for c in record["conversations"]),
                frames=tuple(_index(i) for i in record["frames" if boxes else "sample_frame_indice"]),
                chosen=() if boxes else tuple(_grounding(c) for c in record["cot_trace"]),
                keyframe=_index(record["keyframe"]) if boxes else None,
                shown={key: _shown(value, key) for key, value in (raw.get("shown") or {}).items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            what = f"{type(e).__name__}: {e}"
            raise DataError(f"{where}: trace {raw['id']}: its record is malformed ({what}); make it again") from e


def _grounding(entry: Mapping[str, Any]) -> Grounding:
    return Grounding(_index(entry["start_frame"]), _index(entry["end_frame"]), _index(entry["key_frame"]))


def _index(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is not a frame index")
    return value


def _shown(value: Any, key: str) -> float:
    low, high = RATES if key == "fps" else SIZES
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (whole or (key == "fps" and isinstance(value, float))) or not low <= value <= high:
        raise ValueError(f"{key} = {value!r} under 'shown'")
    return float(value) if key == "fps" else int(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value
