"""The most that the segmenter lets a policy reach, expression by expression: J&F from true prompts (percent).

From boxes: those of the ground truth at the frame that shows most of its objects, largest. From ``[SEG]``: the state
that descent through the mask decoder finds for the true masks, propagated as a policy's own would be.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data_construction.problems import Progress
from data_construction.readers import Dataset
from rollout.errors import DataError
from rollout.text_files import read_text
from rollout.types import RLE, Masklets, Sample

if TYPE_CHECKING:
    from rewards.segmenter import RequestScorer

KIND = "ceiling"
PROMPTS = ("boxes", "seg")
NO_TARGET = 100.0
"""J&F of an empty answer where nothing is asked for."""
Key = tuple[str, str]
"""Clip and expression."""


@dataclass(frozen=True)
class Ceiling:
    """One expression."""

    clip: str
    expression_id: str
    keyframe: int | None
    """Where the prompts were; None where no target shows in any frame."""
    objects: int
    boxes: float
    """J&F from the true boxes."""
    seg: float | None = None
    """J&F from the best state of a policy's head, where one was given."""

    def of(self, prompts: str) -> float:
        """Raises DataError where such prompts were not tried."""
        found = self.boxes if prompts == "boxes" else self.seg
        if found is None:
            raise DataError(
                f"{self.clip}/{self.expression_id}: has no ceiling from [SEG]; measure it with "
                "videoseg data check --ceiling --policy FOLDER"
            )
        return found


def measure_ceiling(
    dataset: Dataset,
    scorer: RequestScorer,
    report: Callable[[DataError], None],
    *,
    seg: bool = False,
    progress: Progress | None = None,
) -> Iterator[Ceiling]:
    """A clip at a time, all its expressions in one batch; those on the same objects are propagated once.

    ``report`` gets what cannot be read. Raises DataError where the split has no masks.
    """
    if dataset.masks is None:
        raise DataError(
            f"{dataset.root}: split {dataset.split} of {dataset.name} has no masks to take true prompts from"
        )
    for done, entry in enumerate(dataset.index.values()):
        if progress is not None:
            progress(done, len(dataset.index), f"ceiling of {dataset.name}/{dataset.split}")
        samples = [s for s in dataset.samples_of(entry, report, "exist") if s.masklets is not None]
        distinct = {s.expression.anno_ids: s for s in samples}
        try:
            found = dict(zip(distinct, _of_clip(list(distinct.values()), scorer, seg), strict=True))
        except DataError as error:
            report(error)
            continue
        for sample in samples:
            yield Ceiling(sample.clip.name, sample.expression.id, *found[sample.expression.anno_ids])


Found = tuple[int | None, int, float, float | None]
"""Keyframe, objects, J&F from boxes, J&F from a state."""


def _of_clip(samples: Sequence[Sample], scorer: RequestScorer, seg: bool) -> list[Found]:
    from rewards.segmenter import BoxRequest, PropagateRequest
    from rewards.segmenter.best_state import best_states

    keyframes = [best_keyframe(_masklets(s)) for s in samples]
    shown = [(s, k) for s, k in zip(samples, keyframes, strict=True) if k is not None]
    frames = range(samples[0].clip.num_frames) if samples else range(0)
    from_boxes = iter(
        _scores(
            scorer,
            [BoxRequest(s.clip, frames, k, true_boxes(_masklets(s), k), None, with_masks=True) for s, k in shown],
            shown,
        )
    )
    from_states: Iterator[float] | None = None
    if seg and shown:
        states = best_states(scorer, shown[0][0].clip, [(_masklets(s), k) for s, k in shown])
        requests = [PropagateRequest(s.clip, k, state) for (s, k), state in zip(shown, states, strict=True)]
        from_states = iter(_scores(scorer, requests, shown))
    out: list[Found] = []
    for sample, keyframe in zip(samples, keyframes, strict=True):
        objects = len(sample.expression.anno_ids)
        if keyframe is None:
            out.append((None, objects, NO_TARGET, NO_TARGET if seg else None))
        else:
            out.append((keyframe, objects, next(from_boxes), next(from_states) if from_states else None))
    return out


def _scores(scorer: RequestScorer, requests: Sequence[Any], shown: Sequence[tuple[Sample, int]]) -> list[float]:
    from rewards.metrics import score_clip

    out = []
    for answer, (sample, _) in zip(scorer.score(requests), shown, strict=True):
        if isinstance(answer, DataError):
            raise answer
        truth = _masklets(sample)
        wanted = [truth.union_rle(t) for t in range(truth.num_frames)]
        scores = score_clip(answer.rles, wanted, (truth.height, truth.width), f"clip {sample.clip.name}")  # type: ignore[union-attr, arg-type]
        out.append(float(50 * (scores.j.mean() + scores.f.mean())))
    return out


def best_keyframe(masklets: Masklets) -> int | None:
    """The frame that shows most of the objects; of several, where they cover most."""
    objects = np.array([[rle is not None and _visible(rle) for rle in one] for one in masklets.rles], dtype=np.int64)
    if not objects.any():
        return None
    return int(max(range(masklets.num_frames), key=lambda t: (objects[:, t].sum(), masklets.areas()[t])))


def true_boxes(masklets: Masklets, frame: int) -> list[tuple[float, float, float, float]]:
    """x0, y0, x1, y1 in pixels, of every object that shows in ``frame``."""
    masks = [masklets.object_mask(i, frame) for i in range(len(masklets.rles))]
    return [_box(mask) for mask in masks if mask.any()]


def _box(mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1)


def _visible(rle: RLE) -> bool:
    from pycocotools import mask as coco_mask

    from rollout.types import packed

    return bool(coco_mask.area(packed(rle)))


def _masklets(sample: Sample) -> Masklets:
    assert sample.masklets is not None
    return sample.masklets


def write_ceilings(path: Path, about: Mapping[str, Any], rows: Sequence[Ceiling]) -> None:
    """JSON lines: what was measured (data set, split, segmenter), then a row an expression. Whole or not at all."""
    from data_construction.atomic import write_whole

    lines = [{"kind": KIND, **about}, *(asdict(row) for row in rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def read_ceilings(path: Path, dataset: str = "", split: str = "") -> dict[Key, Ceiling]:
    """By clip and expression.

    Raises:
        DataError: no such file, not one of `write_ceilings`, or of another data set or split than those given.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; write one with videoseg data check NAME ROOT --ceiling")
    try:
        lines = read_text(path).splitlines()
        about = json.loads(lines[0])
        rows = [Ceiling(**json.loads(line)) for line in lines[1:] if line.strip()]
        if about["kind"] != KIND:
            raise KeyError("kind")
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(f"{path}: is not a file of ceilings ({error!r}); write it with videoseg data check") from error
    for name, wanted in (("dataset", dataset), ("split", split)):
        if wanted and about.get(name) != wanted:
            raise DataError(
                f"{path}: ceilings of {name} {about.get(name)!r}, not {wanted!r}; measure them for that one"
            )
    return {(row.clip, row.expression_id): row for row in rows}


def ceiling_file(root: Path, split: str) -> Path:
    """Where a split's ceilings are kept unless told otherwise."""
    return root / f"ceiling_{split}.jsonl"


def by_clip(rows: Sequence[Ceiling]) -> dict[str, dict[str, float]]:
    """Clip -> mean J&F by kind of prompt, the lowest from boxes first."""
    clips: dict[str, list[Ceiling]] = {}
    for row in rows:
        clips.setdefault(row.clip, []).append(row)
    means = {name: means_of(found) for name, found in clips.items()}
    return dict(sorted(means.items(), key=lambda item: item[1]["boxes"]))


def means_of(rows: Sequence[Ceiling]) -> dict[str, float]:
    """Mean J&F by kind of prompt, of the kinds that were tried."""
    tried = ["boxes", *(["seg"] if all(row.seg is not None for row in rows) else [])]
    return {name: round(float(np.mean([row.of(name) for row in rows])), 2) for name in tried} if rows else {}
