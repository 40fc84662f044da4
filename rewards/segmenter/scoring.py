"""Requests to scores, batched: all requests of a clip share its features and run together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewards.segmenter.cache import FeatureCache, LoadFrames
from rewards.segmenter.features import Features
from rewards.segmenter.masks import encode_rles, mask_to_clip_size
from rewards.segmenter.memory import pointer_frames
from rewards.segmenter.segmenter import Segmenter
from rewards.segmenter.tracks import point_masks, propagate_group
from rewards.segmenter.truth import Truth
from rewards.segmenter.types import (
    BoxRequest,
    MaskRequest,
    MaskScores,
    PointRequest,
    PropagateRequest,
    Request,
    Scores,
    SegRequest,
)
from rollout.errors import DataError
from rollout.types import RLE, decode_rle

Outcome = Scores | DataError
"""What a request came to: scores, or what is wrong with its clip on disk."""


class RequestScorer:
    """A segmenter and its feature cache behind one call."""

    def __init__(
        self,
        segmenter: Segmenter,
        *,
        max_resident_frames: int = 256,
        max_batch: int = 64,
        load: LoadFrames | None = None,
    ) -> None:
        self.segmenter = segmenter
        self.cache = FeatureCache(segmenter, max_resident_frames, *([] if load is None else [load]))
        self._max_batch = max_batch

    def load_decoder(self, weights: dict[str, Tensor]) -> None:
        self.segmenter.load_decoder_state_dict(weights)
        self.cache.clear()

    @torch.no_grad()
    def score(self, requests: Sequence[Request]) -> list[Outcome]:
        """One outcome per request, in order. A clip that cannot be read spoils only the requests that need it."""
        kinds: dict[type, Callable[..., list[Any]]] = {
            SegRequest: self._decode,
            MaskRequest: self._compare,
            PropagateRequest: partial(propagate_group, self.segmenter, self.cache, self._max_batch),
            BoxRequest: partial(propagate_group, self.segmenter, self.cache, self._max_batch),
            PointRequest: partial(point_masks, self.segmenter, self.cache, self._max_batch),
        }
        groups: dict[tuple[Any, ...], list[int]] = {}
        for i, request in enumerate(requests):
            if type(request) not in kinds:
                raise TypeError(f"{type(request).__name__} is not a request to the segmenter")
            # only videos that count alike how far back a frame lies are propagated together
            video = request.video if isinstance(request, PropagateRequest | BoxRequest) else ()
            length = pointer_frames(self.segmenter.architecture, len(video))
            groups.setdefault((type(request), request.clip.name, request.clip.frames, length), []).append(i)
        truth = Truth(self.segmenter.device)
        outcomes: dict[int, Outcome] = {}
        self._read_ahead([requests[i] for members in groups.values() for i in members])
        try:
            for (kind, *_), members in groups.items():
                run = kinds[kind]
                group = [requests[i] for i in members]
                outcomes.update(zip(members, self._isolate(run, group, truth), strict=True))
        finally:
            self.cache.forget_ahead()
        return [outcomes[i] for i in range(len(requests))]

    def _read_ahead(self, requests: Sequence[Request]) -> None:
        """Begin to read what ``requests`` will need, those of the first before those of the last."""
        for request in requests:
            frames = frames_to_read(request)
            if len(frames) > self.cache.room_ahead:
                return
            self.cache.read_ahead(request.clip, frames)

    def _isolate(self, run: Callable[..., list[Any]], group: list[Request], truth: Truth) -> list[Outcome]:
        """Together if the clip is sound; else one by one, so that only requests for a bad frame fail."""
        try:
            return run(group, truth)
        except DataError as error:
            if len(group) == 1:
                return [error]
        return [outcome for request in group for outcome in self._isolate(run, [request], truth)]

    def _decode(self, group: list[SegRequest], truth: Truth) -> list[MaskScores]:
        places, states, frames, targets, kept = [], [], [], [], []
        for r, request in enumerate(group):
            for turn, state in enumerate(request.states):
                if state is None:
                    continue
                for slot, frame in enumerate([*request.spatial_frames, request.keyframes[turn]]):
                    places.append((r, turn, slot))
                    states.append(state)
                    frames.append(frame)
                    targets.append((request.masklets, frame))
                    kept.append(request.with_masks)
        ious = [np.zeros((len(request.states), len(request.spatial_frames) + 1)) for request in group]
        rles: list[RLE | None] = []
        if places:
            distinct = sorted(set(frames))
            features = self.cache.features(group[0].clip, distinct)
            rows = [distinct.index(t) for t in frames]
            values, rles = self._decode_and_score(features, rows, np.stack(states), targets, truth, kept)
            for (r, turn, slot), iou in zip(places, values, strict=True):
                ious[r][turn, slot] = iou
        masks = dict(zip(places, rles, strict=True))
        return [_mask_scores(x, _rles(r, group[r], masks)) for r, x in enumerate(ious)]

    def _decode_and_score(
        self,
        features: Features,
        rows: list[int],
        states: np.ndarray[Any, Any],
        targets: Any,
        truth: Truth,
        kept: Sequence[bool],
    ) -> tuple[list[float], list[RLE | None]]:
        """IoUs, and the masks of those that are ``kept``."""
        values: list[float] = []
        rles: list[RLE | None] = [None] * len(rows)
        prompts = torch.from_numpy(states).float().to(self.segmenter.device)
        for start in range(0, len(rows), self._max_batch):
            part = slice(start, start + self._max_batch)
            logits, _ = self.segmenter.decode(features, rows[part], prompts[part])
            values += truth.score_logits(logits, targets[part])
            wanted = [i for i in range(start, start + len(logits)) if kept[i]]
            if wanted:
                height, width = targets[start][0].height, targets[start][0].width
                masks = mask_to_clip_size(logits[[i - start for i in wanted]], height, width)
                for i, rle in zip(wanted, encode_rles(masks), strict=True):
                    rles[i] = rle
        return values, rles

    def _compare(self, group: list[MaskRequest], truth: Truth) -> list[MaskScores]:
        out = []
        for request in group:
            ious = np.zeros((len(request.spatial_masks), len(request.spatial_frames) + 1))
            for turn, masks in enumerate(request.spatial_masks):
                given = dict(enumerate(masks or ()))
                frames = [*request.spatial_frames, request.keyframes[turn]]
                if (key_mask := request.keyframe_masks[turn]) is not None:
                    given[len(request.spatial_frames)] = key_mask
                targets = [(request.masklets, frames[slot]) for slot in given]
                values = truth.score_logits(self._as_logits(list(given.values())), targets)
                ious[turn, list(given)] = values
            out.append(_mask_scores(ious))
        return out

    def _as_logits(self, rles: list[RLE]) -> Tensor:
        masks = np.stack([decode_rle(rle) for rle in rles]) if rles else np.zeros((0, 1, 1))
        return torch.from_numpy(masks).to(self.segmenter.device).float() * 2 - 1


def frames_to_read(request: Request) -> list[int]:
    """Of its clip; none where nothing prompts the segmenter."""
    match request:
        case SegRequest():
            asked = [k for k, state in zip(request.keyframes, request.states, strict=True) if state is not None]
            return sorted({*asked, *request.spatial_frames}) if asked else []
        case PropagateRequest() | BoxRequest():
            prompted = request.state is not None or (isinstance(request, BoxRequest) and len(request.boxes) > 0)
            return sorted(set(request.video)) if prompted else []
        case PointRequest():
            return [request.frame]
        case _:
            return []


def _rles(r: int, request: SegRequest, masks: dict[tuple[int, int, int], RLE | None]) -> Any:
    """The masks of request ``r`` by turn, see ``MaskScores.rles``; ``masks`` by (request, turn, slot)."""
    if not request.with_masks:
        return None
    slots = range(len(request.spatial_frames) + 1)
    turns = enumerate(request.states)
    return tuple(None if state is None else tuple(masks[r, turn, s] for s in slots) for turn, state in turns)


def _mask_scores(ious: np.ndarray[Any, Any], rles: Any = None) -> MaskScores:
    """(turns, spatial frames + keyframe) -> scores."""
    video = tuple(tuple(float(x) for x in row[:-1]) for row in ious)
    return MaskScores(video, tuple(float(row[-1]) for row in ious), rles)
