"""ViCaS, val and test: the prediction files of its own evaluation tool (there is no server)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from eval.packagers.base import Answer, Entry, Packager, frame_name
from eval.packagers.registry import register_packager
from rewards.metrics.packing import runs
from rollout.errors import DataError
from rollout.types import RLE, Clip, Expression

MOST_TRACKS = 10
"""Of a prompt: with more the tool ends in an index error."""


@register_packager("vicas")
class Vicas(Packager):
    """``<six-digit video id>.json``: ``{"video_id", "pred_lgvis_masks"}``, for each prompt in order one entry a frame,
    ``{"filename", "mask_rles": [RLE]}`` with one RLE an object: the tool scores tracks, and wants the same number of
    them in every frame. It stops where a prompt has more than ten; those beyond are left out. So are captions: run the
    tool with ``--skip_captions``.
    """

    about = "<six-digit video id>.json with pred_lgvis_masks (README and evaluation code of ViCaS)"

    def entries(self, clip: Clip, answers: Sequence[Answer]) -> Iterator[Entry]:
        yield Entry(self.paths(clip, [])[0], partial(_content, clip, list(answers)))

    def paths(self, clip: Clip, expressions: Sequence[Expression]) -> list[str]:
        if not clip.name.isdigit():
            raise DataError(f"clip {clip.name!r}: ViCaS' tool wants clips named by their video ids; another data set?")
        return [f"{int(clip.name):06d}.json"]

    def problems(self, clip: Clip, expressions: Sequence[Expression], path: str, content: bytes) -> Iterator[str]:
        try:
            raw = json.loads(content)
            prompts = raw["pred_lgvis_masks"]
            if raw["video_id"] != int(clip.name):
                yield f"has video_id {raw['video_id']!r}"
            if len(prompts) != len(expressions):
                yield f"answers {len(prompts)} prompts, the clip has {len(expressions)}"
            wanted = [f"{frame_name(frame)}.jpg" for frame in clip.frames]
            for i, frames in enumerate(prompts):
                if [frame["filename"] for frame in frames] != wanted:
                    yield f"prompt {i} has not one entry for each of the clip's {len(wanted)} frames, in order"
                tracks = {len(frame["mask_rles"]) for frame in frames}
                if len(tracks) > 1 or max(tracks, default=0) > MOST_TRACKS:
                    yield f"prompt {i} has {sorted(tracks)} tracks; wants the same number in each frame, at most ten"
                for frame in frames:
                    for rle in frame["mask_rles"]:
                        runs(rle, clip.height, clip.width, f"prompt {i}, {frame['filename']}")
        except DataError as error:
            yield str(error)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            yield f"is not a prediction file of ViCaS ({type(error).__name__}: {error})"


def _content(clip: Clip, answers: Sequence[Answer]) -> bytes:
    masks = [
        [
            {
                "filename": f"{frame_name(frame)}.jpg",
                "mask_rles": [_rle(track[t], clip) for track in answer.objects[:MOST_TRACKS]],
            }
            for t, frame in enumerate(clip.frames)
        ]
        for answer in answers
    ]
    body: dict[str, Any] = {"video_id": int(clip.name), "pred_lgvis_masks": masks}
    return json.dumps(body, separators=(",", ":")).encode()


def _rle(rle: RLE | None, clip: Clip) -> RLE:
    """With text counts; the tool wants an RLE for an empty mask as well."""
    from pycocotools import mask as coco_mask

    size = [clip.height, clip.width]
    counts = [clip.height * clip.width] if rle is None else rle["counts"]
    if isinstance(counts, list):
        counts = coco_mask.frPyObjects({"size": size, "counts": counts}, *size)["counts"]
    return {"size": size, "counts": counts if isinstance(counts, str) else counts.decode("ascii")}
