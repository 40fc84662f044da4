"""Propagation requests to masks of whole clips, one frame at a time.

What is held beside the memory bank: the logits of one step, the full-size masks of the frames that a step touches, and
the finished frames' RLEs. A clip of 2 000 frames therefore needs the memory of one of 20.

Shape legend: B items of a step, T frames of a clip, H x W pixels of the clip, N boxes of a request.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from rewards.segmenter.cache import FeatureCache
from rewards.segmenter.features import on_device
from rewards.segmenter.masks import by_columns, encode_columns, encode_rles, mask_to_clip_size
from rewards.segmenter.overlap import Fetched, fetch, one_behind
from rewards.segmenter.segmenter import Segmenter
from rewards.segmenter.truth import Truth
from rewards.segmenter.types import BoxRequest, BoxScores, PointRequest, PropagatedMasks, PropagateRequest
from rollout.types import RLE

FULL_SIZE_PIXELS = 64_000_000
"""Masks of a step are brought to the clip's size in groups of about so many pixels."""


class _Tracks:
    """RLEs and IoUs of the group's requests as they grow, frame by frame; nothing is predicted until it is told."""

    def __init__(self, group: Sequence[PropagateRequest | BoxRequest], frames: Sequence[int], truth: Truth) -> None:
        self._frames, self._truth = frames, truth
        self._masklets = [request.masklets for request in group]
        self._kept = [not isinstance(request, BoxRequest) or request.with_masks for request in group]
        clip = group[0].clip
        empty = encode_rles(np.zeros((1, clip.height, clip.width), dtype=np.bool_))[0]
        self._rles: list[list[RLE]] = [[empty] * len(frames) if kept else [] for kept in self._kept]
        self._ious: list[dict[int, float]] = [{} for _ in group]

    def begin(self, places: Sequence[tuple[int, int]], masks: Tensor) -> Fetched:
        """(n, H, W) masks at n (request, place in ``frames``), on their way to the host."""
        kept = [i for i, (request, _) in enumerate(places) if self._kept[request]]
        targets = [(i, truth) for i, (r, _) in enumerate(places) if (truth := self._masklets[r]) is not None]
        columns = by_columns(_rows(masks, kept))
        wanted = [(truth, self._frames[places[i][1]]) for i, truth in targets]
        ious = self._truth.ious(_rows(masks, [i for i, _ in targets]), wanted)
        return fetch(partial(self._put, [places[i] for i in kept], [places[i] for i, _ in targets]), columns, ious)

    def _put(self, drawn: list[tuple[int, int]], scored: list[tuple[int, int]], columns: Tensor, ious: Tensor) -> None:
        for (request, position), rle in zip(drawn, encode_columns(columns), strict=True):
            self._rles[request][position] = rle
        for (request, position), value in zip(scored, ious.tolist(), strict=True):
            self._ious[request][position] = float(value)

    def rles(self, request: int) -> tuple[RLE, ...] | None:
        return tuple(self._rles[request]) if self._kept[request] else None

    def ious(self, request: int) -> tuple[float, ...] | None:
        """One a frame, where nothing was predicted those of an empty mask: 1 where nothing is visible, else 0."""
        truth, known = self._masklets[request], self._ious[request]
        if truth is None:
            return None
        return tuple(
            known[i] if i in known else float(not self._truth.union(truth, t).any()) for i, t in enumerate(self._frames)
        )


def _rows(masks: Tensor, rows: list[int]) -> Tensor:
    return masks if len(rows) == len(masks) else masks.index_select(0, on_device(rows, masks.device))


def propagate_states(
    segmenter: Segmenter, cache: FeatureCache, max_batch: int, group: list[PropagateRequest], truth: Truth
) -> list[PropagatedMasks]:
    """The masks of one clip's requests. Raises DataError for a frame that cannot be read."""
    clip = group[0].clip
    tracks = _Tracks(group, range(clip.num_frames), truth)
    states = {r: request.state for r, request in enumerate(group) if request.state is not None}
    prompted = list(states)

    def work() -> Iterator[Fetched]:
        steps = segmenter.propagation_steps(
            cache.source(clip, range(clip.num_frames)),
            [group[r].keyframe for r in prompted],
            states=torch.from_numpy(np.stack(list(states.values()))).float().to(segmenter.device),
            max_batch=max_batch,
        )
        at_once = max(1, FULL_SIZE_PIXELS // (clip.height * clip.width))
        for step in steps:
            places = [(prompted[item], frame) for item, frame in zip(step.items, step.frames, strict=True)]
            for start in range(0, len(places), at_once):
                part = slice(start, start + at_once)
                yield tracks.begin(places[part], mask_to_clip_size(step.head.logits[part], clip.height, clip.width))

    for put, results in one_behind(work() if states else ()):
        put(*results)
    return [
        PropagatedMasks(tracks.rles(r) or (), tracks.ious(r), None if r in states else ()) for r in range(len(group))
    ]


def propagate_boxes(
    segmenter: Segmenter, cache: FeatureCache, max_batch: int, group: list[BoxRequest], truth: Truth
) -> list[BoxScores]:
    """The same for boxes, one object each, merged by union; a request's boxes share its keyframe, hence every step."""
    clip, frames = group[0].clip, list(group[0].frames)
    tracks, objects = _Tracks(group, frames, truth), _Objects(group)
    owners = [r for r, request in enumerate(group) for _ in request.boxes]

    def work() -> Iterator[Fetched]:
        steps = segmenter.propagation_steps(
            cache.source(clip, frames),
            [frames.index(group[r].keyframe) for r in owners],
            boxes=torch.tensor([box for request in group for box in request.boxes], dtype=torch.float32),
            clip_size=(clip.height, clip.width),
            max_batch=max_batch,
        )
        unions = _Unions(owners)
        at_once = max(1, FULL_SIZE_PIXELS // (clip.height * clip.width))
        for step in steps:
            for start in range(0, len(step.items), at_once):
                items, positions = (part[start : start + at_once] for part in (step.items, step.frames))
                masks = mask_to_clip_size(step.head.logits[start : start + at_once], clip.height, clip.width)
                if places := objects.wanted(items, positions):
                    own = _rows(masks, [i for i, _, _ in places])
                    yield fetch(partial(objects.put, places), by_columns(own))
                for item, position, mask in zip(items, positions, masks.split(1), strict=True):
                    unions.add(item, position, mask)
                if whole := unions.take():
                    yield tracks.begin(list(whole), torch.cat(list(whole.values())))

    for put, results in one_behind(work() if owners else ()):
        put(*results)
    return [BoxScores(tracks.ious(r) or (), tracks.rles(r), objects.of(r)) for r in range(len(group))]


def point_masks(
    segmenter: Segmenter, cache: FeatureCache, max_batch: int, group: list[PointRequest], truth: Truth
) -> list[PropagatedMasks]:
    """SAM 2's mask of each click, on its frame alone: of its three candidates the one it thinks best of."""
    clip = group[0].clip
    frames = sorted({request.frame for request in group})
    steps = segmenter.propagation_steps(
        cache.source(clip, frames),
        [frames.index(request.frame) for request in group],
        points=torch.tensor([request.point for request in group], dtype=torch.float32),
        clip_size=(clip.height, clip.width),
        max_batch=max_batch,
    )
    found: dict[int, RLE] = {}
    while len(found) < len(group):  # the steps that follow would track
        step = next(steps)
        rles = encode_rles(mask_to_clip_size(step.head.logits, clip.height, clip.width))
        found.update(zip(step.items, rles, strict=True))
    return [PropagatedMasks((found[r],), None) for r in range(len(group))]


class _Objects:
    """RLEs of each box's own object, of requests that want masks and have several boxes."""

    def __init__(self, group: Sequence[BoxRequest]) -> None:
        self._group = group
        self._kept = {r for r, request in enumerate(group) if request.with_masks and len(request.boxes) > 1}
        self._owners = [r for r, request in enumerate(group) for _ in request.boxes]
        clip = group[0].clip
        empty = encode_rles(np.zeros((1, clip.height, clip.width), dtype=np.bool_))[0]
        self._rles = {item: [empty] * len(group[r].frames) for item, r in enumerate(self._owners) if r in self._kept}

    def wanted(self, items: Sequence[int], positions: Sequence[int]) -> list[tuple[int, int, int]]:
        """Row, item and place in the frames of those whose own masks are kept."""
        return [(i, *place) for i, place in enumerate(zip(items, positions, strict=True)) if place[0] in self._rles]

    def put(self, places: list[tuple[int, int, int]], columns: Tensor) -> None:
        for (_, item, position), rle in zip(places, encode_columns(columns), strict=True):
            self._rles[item][position] = rle

    def of(self, request: int) -> tuple[tuple[RLE, ...], ...] | None:
        """None where the request has one box, or wants no masks."""
        wanted = self._group[request]
        if not wanted.with_masks or len(wanted.boxes) == 1:
            return None
        return tuple(tuple(rles) for item, rles in self._rles.items() if self._owners[item] == request)


class _Unions:
    """Masks of objects merged per request and frame, until all of a request's objects are in (steps may split them)."""

    def __init__(self, owners: Sequence[int]) -> None:
        self._owners, self._objects = owners, Counter(owners)
        self._open: dict[tuple[int, int], tuple[Tensor, int]] = {}

    def add(self, item: int, position: int, mask: Tensor) -> None:
        place = self._owners[item], position
        merged, count = self._open.get(place, (mask, 0))
        self._open[place] = merged | mask, count + 1

    def take(self) -> dict[tuple[int, int], Tensor]:
        """(1, H, W) of every (request, frame) that is whole; they are forgotten here."""
        whole = [place for place, (_, count) in self._open.items() if count == self._objects[place[0]]]
        return {place: self._open.pop(place)[0] for place in whole}
