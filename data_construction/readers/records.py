"""The two training files of SPEC 2.7: RL annotations and VTS-CoT traces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_construction.problems import Problem
from data_construction.readers.dataset import Dataset
from data_construction.readers.files import read_json
from rollout.errors import DataError
from rollout.types import Clip, Expression, Grounding, Sample
from rollout.video import split_frame_path


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

    @property
    def replies(self) -> list[str]:
        """The assistant turns' texts."""
        return [value for who, value in self.conversations if who == "gpt"]

    @property
    def selections(self) -> list[Grounding]:
        """The choices that were followed by another user message, one fewer than the replies."""
        return list(self.cot_trace[: len(self.replies) - 1])

    def to_dict(self) -> dict[str, Any]:
        """The record of SPEC 2.7; ``kind`` and ``noisy`` are ours and left out where they say nothing."""
        extra = {k: v for k, v in (("kind", self.kind), ("noisy", self.noisy)) if v}
        return {
            "video_name": self.video_name,
            "frames": list(self.frames),
            "exp": self.exp,
            "anno_id": [int(a) if a.isdigit() else a for a in self.anno_id],
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
            frames=tuple(str(f) for f in d["frames"]),
            exp=str(d["exp"]),
            anno_id=tuple(str(a) for a in d["anno_id"]),
            sample_frame_indice=tuple(int(i) for i in d["sample_frame_indice"]),
            cot_trace=tuple(
                Grounding(int(c["start_frame"]), int(c["end_frame"]), int(c["key_frame"])) for c in d["cot_trace"]
            ),
            conversations=tuple((str(c["from"]), str(c["value"])) for c in d["conversations"]),
            kind=str(d.get("kind", "")),
            noisy=bool(d.get("noisy", False)),
        )


def read_vts_cot(path: str | Path) -> list[VTSCoTRecord]:
    """Every trace of ``path``. Raises DataError naming file, record and clip."""
    records: list[VTSCoTRecord] = []
    for n, raw in enumerate(read_items(Path(path))):
        try:
            record = VTSCoTRecord.from_dict(raw)
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            clip = str(raw.get("video_name", "")) if isinstance(raw, dict) else ""
            what = f"not a VTS-CoT record ({type(e).__name__}: {e})"
            raise Problem("malformed_record", str(path), what, clip, item=f"record {n}").error() from e
        check_indices(record, Path(path), n)
        records.append(record)
    return records


def check_indices(record: VTSCoTRecord, path: Path, n: int) -> None:
    """Raise DataError where a frame index lies outside of the clip or turns and choices do not fit together."""
    total, turns = len(record.frames), len(record.replies)
    chosen = [i for g in record.cot_trace for i in (g.start, g.end, g.keyframe)]
    bad = [i for i in (*chosen, *record.sample_frame_indice) if not 0 <= i < total]
    what = f"frame index {bad[0]} outside 0..{total - 1}" if bad else ""
    if not bad and not turns - 1 <= len(record.cot_trace) <= turns:
        what = f"{len(record.cot_trace)} entries in cot_trace for {turns} assistant turns"
    if what or not turns:
        what = what or "no assistant turn"
        raise Problem("malformed_record", str(path), what, record.video_name, item=f"record {n}").error()


def frame_names(clip: Clip) -> tuple[str, ...]:
    """Frames as the data sets' files name them: without folder and suffix; of a video, its index in five digits."""
    inside = [split_frame_path(f) for f in clip.frames]
    return tuple(Path(f).stem if v is None else f"{v[1]:05d}" for f, v in zip(clip.frames, inside, strict=True))


def rl_annotation(sample: Sample, existence: NDArray[np.bool_]) -> dict[str, Any]:
    """One object of an RL annotation item. ``existence`` (T,): whether any target is visible in the frame."""
    return {
        "video_name": sample.clip.name,
        "frames": list(frame_names(sample.clip)),
        "exp": sample.expression.text,
        "anno_id": [int(a) if a.isdigit() else a for a in sample.expression.anno_ids],
        "mask_existence": [int(e) for e in existence],
    }


def read_rl_annotations(path: str | Path, dataset: Dataset) -> Iterator[Sample]:
    """Samples of an RL annotation file, in its order; clips and masks come from ``dataset``.

    Raises DataError naming file, item and clip, also where ``mask_existence`` disagrees with the masks.
    """
    for n, item in enumerate(read_items(Path(path))):
        clip = ""
        try:
            record = item[0] if isinstance(item, list) else item
            clip = str(record["video_name"])
            text, ids = str(record["exp"]), tuple(str(a) for a in record["anno_id"])
            existence = np.asarray(record["mask_existence"], dtype=np.uint8)
        except (KeyError, IndexError, TypeError, ValueError) as e:
            what = f"not an RL annotation ({type(e).__name__}: {e})"
            raise Problem("malformed_record", str(path), what, clip, item=f"item {n}").error() from e
        same = [e for e in dataset.expressions(clip) if e.text == text and e.anno_ids == ids]
        expression = same[0] if same else Expression(f"rl{n}", text, ids)
        sample = Sample(dataset.clip(clip), expression, dataset.masklets(clip, ids))
        truth = sample.masklets.existence() if sample.masklets is not None else existence
        if len(existence) != sample.clip.num_frames or (existence != truth).any():
            differ = np.flatnonzero(existence[: len(truth)] != truth[: len(existence)])
            at = str(int(differ[0])) if len(differ) else str(min(len(existence), len(truth)))
            what = f"mask_existence ({len(existence)} frames) disagrees with the masks ({len(truth)} frames)"
            raise Problem("existence", str(path), what, clip, at, f"item {n}", "write it again").error()
        yield sample


def read_items(path: Path) -> list[Any]:
    """The file's list. Raises DataError if it is none."""
    raw = read_json(path)
    if not isinstance(raw, list):
        raise DataError(f"{path}: must be a list of records, found {type(raw).__name__}")
    return raw
