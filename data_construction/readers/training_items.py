"""One item of the two training files of SPEC 2.7, a VTS-CoT trace or an RL annotation, from JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_construction.problems import Problem
from data_construction.readers.annotations import annotation_ids
from data_construction.readers.files import read_json
from rollout.errors import DataError
from rollout.types import Grounding

MALFORMED = (KeyError, IndexError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True)
class VTSCoTRecord:
    """One multi-turn trace. Frames are indices into ``frames``; images are re-created from them at training time."""

    video_name: str
    frames: tuple[str, ...]
    exp: str
    anno_id: tuple[str, ...]
    sample_frame_indice: tuple[int, ...]
    """The frames shown at higher resolution in the first message."""
    cot_trace: tuple[Grounding, ...]
    """What each assistant turn chose, the answer's included; only the selecting turns' are shown afterwards."""
    conversations: tuple[tuple[str, str], ...]
    """(from, value) with from one of system, human, gpt."""
    kind: str = ""
    noisy: bool = False
    """The trace was made to reason about a wrong object; its masks stay those of ``anno_id``."""
    mask_anno_id: tuple[str, ...] = ()
    """Whose masks the trace draws, where it was made to draw others than those of ``anno_id``."""
    shown: Mapping[str, float] = field(default_factory=dict)
    """Of Veason-R1's: the ``side`` of the frames, in pixels, that its boxes are in, and the frames a second (``fps``)
    that its seconds count, unless those are the clip's own times. Empty where the record does not say."""

    @property
    def replies(self) -> list[str]:
        """The assistant turns' texts."""
        return [value for who, value in self.conversations if who == "gpt"]

    @property
    def selections(self) -> list[Grounding]:
        """The choices that were followed by another user message, one fewer than the replies."""
        return list(self.cot_trace[: len(self.replies) - 1])

    def to_dict(self) -> dict[str, Any]:
        """The record of SPEC 2.7; ``kind``, ``noisy``, ``mask_anno_id`` and ``shown`` are ours and left out where they
        say nothing."""
        masks = _as_written(self.mask_anno_id)
        ours = {"kind": self.kind, "noisy": self.noisy, "mask_anno_id": masks, "shown": dict(self.shown)}
        extra = {k: v for k, v in ours.items() if v}
        return {
            "video_name": self.video_name,
            "frames": list(self.frames),
            "exp": self.exp,
            "anno_id": _as_written(self.anno_id),
            "sample_frame_indice": list(self.sample_frame_indice),
            "cot_trace": [
                {"start_frame": g.start, "end_frame": g.end, "key_frame": g.keyframe} for g in self.cot_trace
            ],
            "conversations": [{"from": who, "value": value} for who, value in self.conversations],
            **extra,
        }

    @staticmethod
    def from_dict(d: dict[str, Any]) -> VTSCoTRecord:
        """Raises KeyError, TypeError or ValueError where the record is not one of SPEC 2.7."""
        return VTSCoTRecord(
            video_name=str(d["video_name"]),
            frames=tuple(str(f) for f in _list(d, "frames")),
            exp=str(d["exp"]),
            anno_id=annotation_ids(d["anno_id"]),
            sample_frame_indice=tuple(int(i) for i in _list(d, "sample_frame_indice")),
            cot_trace=tuple(
                Grounding(int(c["start_frame"]), int(c["end_frame"]), int(c["key_frame"]))
                for c in _list(d, "cot_trace")
            ),
            conversations=tuple((str(c["from"]), str(c["value"])) for c in _list(d, "conversations")),
            kind=str(d.get("kind", "")),
            noisy=bool(d.get("noisy", False)),
            mask_anno_id=annotation_ids(d.get("mask_anno_id") or []),
            shown={str(k): float(v) for k, v in (d.get("shown") or {}).items()},
        )


@dataclass(frozen=True)
class RLRecord:
    """Object 0 of an RL annotation item."""

    video_name: str
    frames: tuple[str, ...]
    exp: str
    anno_id: tuple[str, ...]
    mask_existence: tuple[int, ...]
    """0 or 1 a frame: whether any target is visible."""

    @staticmethod
    def from_item(item: Any) -> RLRecord:
        """Of a list of objects, or of the object alone. Raises KeyError, IndexError, TypeError or ValueError."""
        d = item[0] if isinstance(item, list) else item
        frames, existence = _list(d, "frames"), tuple(int(e) for e in _list(d, "mask_existence"))
        if not frames or not str(d["exp"]).strip():
            raise ValueError(f"has {len(frames)} frames and the text {d['exp']!r}")
        if len(existence) != len(frames) or set(existence) - {0, 1}:
            raise ValueError(f"mask_existence has {len(existence)} entries for {len(frames)} frames; wants 0 or 1 each")
        names = tuple(str(f) for f in frames)
        return RLRecord(str(d["video_name"]), names, str(d["exp"]), annotation_ids(d["anno_id"]), existence)


def parse_trace(path: Path, n: int, raw: Any) -> VTSCoTRecord:
    """Item ``n`` of a file of traces. Raises DataError (file, record, clip) also for indices outside of the clip."""
    try:
        record = VTSCoTRecord.from_dict(raw)
    except MALFORMED as e:
        raise _malformed(path, n, raw, f"not a VTS-CoT record ({type(e).__name__}: {e})").error() from e
    total, turns = len(record.frames), len(record.replies)
    chosen = [i for g in record.cot_trace for i in (g.start, g.end, g.keyframe)]
    bad = [i for i in (*chosen, *record.sample_frame_indice) if not 0 <= i < total]
    what = f"frame index {bad[0]} outside 0..{total - 1}" if bad else ""
    if not bad and not turns - 1 <= len(record.cot_trace) <= turns:
        what = f"{len(record.cot_trace)} entries in cot_trace for {turns} assistant turns"
    if what or not turns:
        raise _malformed(path, n, raw, what or "no assistant turn").error()
    return record


def parse_annotation(path: Path, n: int, raw: Any) -> RLRecord:
    """Item ``n`` of a file of RL annotations. Raises DataError (file, record, clip)."""
    try:
        return RLRecord.from_item(raw)
    except MALFORMED as e:
        raise _malformed(path, n, raw, f"not an RL annotation ({type(e).__name__}: {e})").error() from e


def clip_of(raw: Any) -> str:
    """The clip that an item of either file names; empty where it names none."""
    first = raw[0] if isinstance(raw, list) and raw else raw
    return str(first.get("video_name", "")) if isinstance(first, dict) else ""


def read_items(path: Path) -> list[Any]:
    """The file's list. Raises DataError if it is none."""
    raw = read_json(path)
    if not isinstance(raw, list):
        raise DataError(f"{path}: must be a list of records, found {type(raw).__name__}")
    return raw


def _as_written(anno_ids: Sequence[str]) -> list[int | str]:
    """Annotation ids as data sets write them."""
    return [int(a) if a.isdigit() else a for a in anno_ids]


def _list(d: Any, key: str) -> list[Any] | tuple[Any, ...]:
    """Raises KeyError or TypeError: text, too, could be gone through item by item."""
    if not isinstance(d[key], (list, tuple)):
        raise TypeError(f"{key!r} is {d[key]!r}, wants a list")
    return d[key]  # type: ignore[no-any-return]


def _malformed(path: Path, n: int, raw: Any, what: str) -> Problem:
    return Problem("malformed_record", str(path), what, clip_of(raw), item=f"record {n}")
