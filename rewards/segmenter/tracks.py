"""Propagation requests to masks of whole clips, one frame at a time.

What is held beside the memory bank: the logits of one step, the full-size masks of the frames that a step touches, and
the finished frames' RLEs. A clip of 2 000 frames therefore needs the memory of one of 20.

Shape legend: B items of a step (a request's state, or one of its boxes), H x W pixels of the clip.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from rewards.segmenter.agreement import drawn_by
from rewards.segmenter.cache import FeatureCache
from rewards.segmenter.features import on_device
from rewards.segmenter.masks import by_columns, encode_columns, encode_rles, mask_to_clip_size
from rewards.segmenter.overlap import Fetched, fetch, one_behind
from rewards.segmenter.propagate import Step
from rewards.segmenter.segmenter import Prompts, Segmenter
from rewards.segmenter.truth import Truth, judge_masks
from rewards.segmenter.types import (
    BoxRequest,
    BoxScores,
    DrawnBy,
    PointRequest,
    PropagatedMasks,
    PropagateRequest,
    State,
)
from rewards.types import PropagatedScores
from rollout.types import RLE, Masklets

FULL_SIZE_PIXELS = 64_000_000
"""Masks of a step are brought to the clip's size in groups of about so many pixels."""
Propagated = PropagateRequest | BoxRequest
Place = tuple[int, int]
"""A request, and a position in its video."""
Judgement = tuple[float, float, bool]
"""J, F and whether there is a mask, of one frame."""


@dataclass(frozen=True)
class _Item:
    """One prompted object."""

    request: int
    box: Sequence[float] | None
    state: State | None


def propagate_group(
    segmenter: Segmenter, cache: FeatureCache, max_batch: int, group: list[Propagated], truth: Truth
) -> list[PropagatedMasks | BoxScores]:
    """Masks and scores of one clip's requests, whose videos go together. A box is an object, merged by union.

    Raises DataError for a frame that cannot be read.
    """
    tracks, by = _Tracks(group, truth), drawn_by(segmenter, cache, max_batch, group)
    for items in _alike(group, by):
        for put, results in one_behind(_propagate(segmenter, cache, max_batch, group, items, tracks)):
            put(*results)
    return [tracks.answer(r, by[r]) for r in range(len(group))]


def _alike(group: Sequence[Propagated], by: Sequence[DrawnBy]) -> Iterator[list[_Item]]:
    """The group's items by their kind of prompt: only alike ones make a batch."""
    for kinds in ({DrawnBy.SEG}, {DrawnBy.BOTH}, {DrawnBy.BOXES, DrawnBy.BOXES_AGAINST_SEG}):
        items = []
        for r in (r for r, kind in enumerate(by) if kind in kinds):
            request = group[r]
            boxes = [None] if by[r] is DrawnBy.SEG or not isinstance(request, BoxRequest) else request.boxes
            state = request.state if by[r] in (DrawnBy.SEG, DrawnBy.BOTH) else None
            items += [_Item(r, box, state) for box in boxes]
        if items:
            yield items


def _propagate(
    segmenter: Segmenter,
    cache: FeatureCache,
    max_batch: int,
    group: Sequence[Propagated],
    items: Sequence[_Item],
    tracks: _Tracks,
) -> Iterator[Fetched]:
    """Run one batch of items through the clip; their masks, on their way to ``tracks``."""
    clip = group[0].clip
    shown = sorted({t for item in items for t in group[item.request].video})
    row = {t: i for i, t in enumerate(shown)}
    prompts = Prompts(max_batch=max_batch, videos=[[row[t] for t in group[item.request].video] for item in items])
    states = [item.state for item in items if item.state is not None]
    if states:
        prompts["states"] = torch.from_numpy(np.stack(states)).float().to(segmenter.device)
    if items[0].box is not None:
        prompts["boxes"] = torch.tensor([item.box for item in items], dtype=torch.float32)
        prompts["clip_size"] = (clip.height, clip.width)
    keyframes = [group[item.request].video.index(group[item.request].keyframe) for item in items]
    objects = _Objects([item.request for item in items])
    for step in segmenter.propagation_steps(cache.source(clip, shown), keyframes, **prompts):
        for numbers, positions, masks in _full_size(step, items, tracks, (clip.height, clip.width)):
            objects.add(numbers, positions, masks)
            if own := tracks.own(items, numbers, positions):
                yield fetch(partial(tracks.put_own, own), by_columns(_rows(masks, [row for row, *_ in own])))
            if whole := objects.take():
                yield tracks.begin(list(whole), torch.stack(list(whole.values())))


def _full_size(
    step: Step, items: Sequence[_Item], tracks: _Tracks, size: tuple[int, int]
) -> Iterator[tuple[list[int], list[int], Tensor]]:
    """(items, positions, (n, H, W) masks) of a step, without what nobody asked to see."""
    places = list(zip(step.items, step.frames, strict=True))
    wanted = [i for i, (item, position) in enumerate(places) if tracks.wants(items[item].request, position)]
    at_once = max(1, FULL_SIZE_PIXELS // (size[0] * size[1]))
    for start in range(0, len(wanted), at_once):
        part = wanted[start : start + at_once]
        logits = _rows(step.head.logits, part)
        yield [places[i][0] for i in part], [places[i][1] for i in part], mask_to_clip_size(logits, *size)


class _Tracks:
    """RLEs and scores of the group's requests as they grow, frame by frame; nothing is predicted until it is told."""

    def __init__(self, group: Sequence[Propagated], truth: Truth) -> None:
        self._group, self._truth = group, truth
        clip = group[0].clip
        empty = encode_rles(np.zeros((1, clip.height, clip.width), dtype=np.bool_))[0]
        self._rles: list[list[RLE]] = [[empty] * len(r.video) if r.with_masks else [] for r in group]
        self._objects: list[dict[int, list[RLE]]] = [{} for _ in group]
        self._ious: list[dict[int, float]] = [{} for _ in group]
        self._judged: list[dict[int, Judgement]] = [{} for _ in group]
        self._empty = empty
        self._judge = [frozenset(r.judged) for r in group]

    def wants(self, request: int, position: int) -> bool:
        """Whether the mask at that place is of any use."""
        r = self._group[request]
        scored = r.masklets is not None and not r.judged
        return r.with_masks or scored or r.video[position] in self._judge[request]

    def begin(self, places: Sequence[Place], masks: Tensor) -> Fetched:
        """(n, H, W) merged masks at n places, on their way to the host."""
        group = self._group
        kept = [i for i, (r, _) in enumerate(places) if group[r].with_masks]
        scored = [i for i, (r, _) in enumerate(places) if group[r].masklets is not None and not group[r].judged]
        judged = [i for i, (r, p) in enumerate(places) if group[r].video[p] in self._judge[r]]
        ious = self._truth.ious(_rows(masks, scored), [self._target(places[i]) for i in scored])
        at = [[places[i] for i in rows] for rows in (kept, scored, judged)]
        put = partial(self._put, at[0], at[1], at[2])
        there = self._truth.unions([self._target(place) for place in at[2]])
        return fetch(put, by_columns(_rows(masks, kept)), ious, _rows(masks, judged), there)

    def _put(
        self,
        drawn: list[Place],
        scored: list[Place],
        judged: list[Place],
        columns: Tensor,
        ious: Tensor,
        masks: Tensor,
        there: Tensor,
    ) -> None:
        for (request, position), rle in zip(drawn, encode_columns(columns), strict=True):
            self._rles[request][position] = rle
        for (request, position), value in zip(scored, ious.tolist(), strict=True):
            self._ious[request][position] = float(value)
        if judged:
            found = judge_masks(masks.numpy(), there.numpy())
            for (request, position), judgement in zip(judged, found, strict=True):
                self._judged[request][self._group[request].video[position]] = judgement

    def own(
        self, items: Sequence[_Item], numbers: Sequence[int], positions: Sequence[int]
    ) -> list[tuple[int, int, int, int]]:
        """Row, request, item and position of those whose own masks are kept: of requests that want masks and have
        several boxes."""
        out = []
        for row, (item, position) in enumerate(zip(numbers, positions, strict=True)):
            request = self._group[items[item].request]
            if request.with_masks and isinstance(request, BoxRequest) and len(request.boxes) > 1:
                out.append((row, items[item].request, item, position))
        return out

    def put_own(self, places: list[tuple[int, int, int, int]], columns: Tensor) -> None:
        for (_, request, item, position), rle in zip(places, encode_columns(columns), strict=True):
            empty = [self._empty] * len(self._group[request].video)
            self._objects[request].setdefault(item, empty)[position] = rle

    def _target(self, place: Place) -> tuple[Masklets, int]:
        request = self._group[place[0]]
        assert request.masklets is not None
        return request.masklets, request.video[place[1]]

    def answer(self, request: int, by: DrawnBy) -> PropagatedMasks | BoxScores:
        r = self._group[request]
        rles = tuple(self._rles[request]) if r.with_masks else None
        if isinstance(r, PropagateRequest):
            objects = () if by is DrawnBy.NOTHING else None
            return PropagatedMasks(rles or (), self._all_ious(request), objects, self._all_judged(request), by)
        own = tuple(tuple(track) for _, track in sorted(self._objects[request].items())) or None
        if r.with_masks and by is DrawnBy.NOTHING:
            own = ()
        return BoxScores(self._all_ious(request) or (), rles, own, self._all_judged(request), by)

    def _all_ious(self, request: int) -> tuple[float, ...] | None:
        """One a frame, where nothing was predicted those of an empty mask: 1 where nothing is visible, else 0."""
        r, known = self._group[request], self._ious[request]
        if r.masklets is None or r.judged:
            return None
        return tuple(
            known[i] if i in known else float(not self._truth.union(r.masklets, t).any()) for i, t in enumerate(r.video)
        )

    def _all_judged(self, request: int) -> PropagatedScores | None:
        r, known = self._group[request], self._judged[request]
        if not r.judged or r.masklets is None:
            return None
        rows = (known[t] if t in known else _nothing_drawn(r.masklets, t) for t in r.judged)
        j, f, predicted = zip(*rows, strict=True)
        return PropagatedScores(j, f, predicted)


def _nothing_drawn(masklets: Masklets, frame: int) -> Judgement:
    empty = float(not masklets.union(frame).any())
    return empty, empty, False


def _rows(masks: Tensor, rows: list[int]) -> Tensor:
    return masks if len(rows) == len(masks) else masks.index_select(0, on_device(rows, masks.device))


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
    """Masks of objects merged per request and frame, until all of a request's objects are in (steps may split them)."""

    def __init__(self, owners: Sequence[int]) -> None:
        self._owners, self._count = owners, Counter(owners)
        self._open: dict[Place, tuple[Tensor, int]] = {}

    def add(self, items: Sequence[int], positions: Sequence[int], masks: Tensor) -> None:
        """(n, H, W) masks of n items at their positions."""
        for item, position, mask in zip(items, positions, masks, strict=True):
            place = self._owners[item], position
            merged, count = self._open.get(place, (mask, 0))
            self._open[place] = merged | mask if count else mask, count + 1

    def take(self) -> dict[Place, Tensor]:
        """(H, W) of every (request, frame) that is whole; they are forgotten here."""
        whole = [place for place, (_, count) in self._open.items() if count == self._count[place[0]]]
        return {place: self._open.pop(place)[0] for place in whole}
