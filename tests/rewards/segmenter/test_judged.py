"""J and F of propagated masks: evaluation's own numbers, whatever shares a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewards.metrics import score_clip
from rewards.segmenter import BoxRequest, PropagateRequest, RequestScorer, Segmenter
from rollout.errors import DataError
from rollout.frames import evenly_spaced
from rollout.types import Clip, Masklets
from tests.rewards.segmenter.clips import FRAMES, HEIGHT, WIDTH, write_clip

BOXES = [(8.0, 5.0, 20.0, 17.0), (28.0, 20.0, 44.0, 36.0)]
LONG = 24


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> tuple[Clip, Masklets]:
    return write_clip(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> tuple[Clip, Masklets]:
    return write_clip(tmp_path_factory.mktemp("clips"), "long", LONG)


def state(seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=32).astype(np.float32)


def prompted(kind: str, clip: Clip, masklets: Masklets, keyframe: int, **more: Any) -> PropagateRequest | BoxRequest:
    if kind == "seg":
        return PropagateRequest(clip, keyframe, state(keyframe), masklets, **more)
    return BoxRequest(clip, more.pop("frames", range(clip.num_frames)), keyframe, BOXES, masklets, **more)


def unions(masklets: Masklets, frames: Sequence[int]) -> list[Any]:
    return [masklets.union_rle(t) for t in frames]


@pytest.mark.parametrize("kind", ["seg", "boxes"])
@pytest.mark.parametrize("judged", [(0, 1, 2, 3, 4, 5), (0, 3, 5), (2,)])
def test_they_are_those_of_the_masks_in_a_results_file(
    segmenter: Segmenter, squares: tuple[Clip, Masklets], kind: str, judged: tuple[int, ...]
) -> None:
    clip, masklets = squares
    whole = prompted(kind, clip, masklets, 2, with_masks=True)
    asked = replace(whole, judged=judged, with_masks=False)
    answer, scores = RequestScorer(segmenter).score([whole, asked])
    assert answer.rles and not scores.rles and not scores.ious  # type: ignore[union-attr]
    expected = score_clip([answer.rles[t] for t in judged], unions(masklets, judged))  # type: ignore[union-attr, index]
    assert list(scores.judged.j) == expected.j.tolist() and list(scores.judged.f) == expected.f.tolist()  # type: ignore[union-attr]
    assert list(scores.judged.predicted) == expected.pred_visible.tolist()  # type: ignore[union-attr]
    assert answer.judged is None  # type: ignore[union-attr]
    assert np.mean(answer.ious[2]) == pytest.approx(score_clip([answer.rles[2]], unions(masklets, [2])).j[0])  # type: ignore[union-attr, index]


@pytest.mark.parametrize("kind", ["seg", "boxes"])
def test_videos_of_their_own_share_a_batch_and_equal_one_at_a_time(
    segmenter: Segmenter, long: tuple[Clip, Masklets], kind: str
) -> None:
    clip, masklets = long
    judged = (0, 8, 15, 23)
    requests = [
        prompted(kind, clip, masklets, k, frames=sorted({*judged, k}), judged=judged) for k in (3, 11, 15, 20, 23)
    ]
    scorer = RequestScorer(segmenter)
    together = scorer.score(requests)
    assert scorer.cache.encoded_frames == len({*judged, 3, 11, 20})
    for request, found in zip(requests, together, strict=True):
        (alone,) = RequestScorer(segmenter).score([request])
        np.testing.assert_allclose(alone.judged.j, found.judged.j, atol=2e-3)  # type: ignore[union-attr]
        np.testing.assert_allclose(alone.judged.f, found.judged.f, atol=2e-2)  # type: ignore[union-attr]
    assert len({tuple(found.judged.j) for found in together}) > 1  # type: ignore[union-attr]


def test_a_bounded_video_is_a_clip_of_these_frames(segmenter: Segmenter, long: tuple[Clip, Masklets]) -> None:
    clip, masklets = long
    frames = (0, 5, 9, 23)
    short = replace(clip, name="short", frames=tuple(clip.frames[t] for t in frames))
    theirs = Masklets(masklets.height, masklets.width, tuple(tuple(o[t] for t in frames) for o in masklets.rles), 4)
    bounded = PropagateRequest(clip, 9, state(0), masklets, frames=frames, judged=frames)
    whole = PropagateRequest(short, 2, state(0), theirs, judged=(0, 1, 2, 3))
    first, second = (RequestScorer(segmenter).score([request])[0] for request in (bounded, whole))
    assert first.judged == second.judged  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["seg", "boxes"])
def test_a_clip_of_one_frame(segmenter: Segmenter, tmp_path: Path, kind: str) -> None:
    clip, masklets = write_clip(tmp_path, "still", 1)
    (answer,) = RequestScorer(segmenter).score([prompted(kind, clip, masklets, 0, judged=(0,))])
    assert len(answer.judged.j) == 1 and 0 <= answer.judged.f[0] <= 1  # type: ignore[union-attr]


def test_a_clip_longer_than_the_cache_is_read_where_it_is_seen(
    segmenter: Segmenter, long: tuple[Clip, Masklets]
) -> None:
    """Exact, it is propagated in bounded memory; bounded, the frames between are never opened."""
    clip, masklets = long
    judged = (0, 11, 23)
    exact = PropagateRequest(clip, 4, state(0), masklets, judged=judged, with_masks=False)
    small, roomy = RequestScorer(segmenter, max_resident_frames=5), RequestScorer(segmenter)
    for a, b in zip(small.score([exact])[0].judged.j, roomy.score([exact])[0].judged.j, strict=True):  # type: ignore[union-attr]
        assert a == pytest.approx(b, abs=2e-3)
    assert len(small.cache) <= 5 and roomy.cache.encoded_frames == LONG
    gone = replace(clip, frames=tuple(f if t in (0, 4, 11, 23) else f"{f}.gone" for t, f in enumerate(clip.frames)))
    bounded = replace(exact, clip=gone, frames=(0, 4, 11, 23))
    assert len(RequestScorer(segmenter).score([bounded])[0].judged.j) == 3  # type: ignore[union-attr]


def test_nothing_predicted_is_right_where_nothing_is_and_wrong_elsewhere(
    segmenter: Segmenter, squares: tuple[Clip, Masklets]
) -> None:
    clip, masklets = squares  # the last frame shows neither square
    frames = tuple(range(FRAMES))
    none = [
        PropagateRequest(clip, 2, None, masklets, judged=frames, with_masks=False),
        BoxRequest(clip, frames, 2, [], masklets, judged=frames),
    ]
    scorer = RequestScorer(segmenter)
    for answer in scorer.score(none):
        assert tuple(answer.judged.j) == tuple(answer.judged.f) == (0.0,) * 5 + (1.0,)  # type: ignore[union-attr]
        assert not any(answer.judged.predicted)  # type: ignore[union-attr]
    assert scorer.cache.encoded_frames == 0


def test_what_cannot_be_judged_is_refused(squares: tuple[Clip, Masklets]) -> None:
    clip, masklets = squares
    with pytest.raises(DataError, match="clip squares: J and F are asked for, but there is no ground truth"):
        PropagateRequest(clip, 2, None, judged=(2,))
    with pytest.raises(ValueError, match="judged frame 4 is not among those propagated"):
        BoxRequest(clip, (0, 2), 2, [], masklets, judged=(2, 4))
    with pytest.raises(ValueError, match=r"keyframe 3 is not among frames \(0, 2\)"):
        PropagateRequest(clip, 3, None, frames=(0, 2))


def test_a_clip_of_2_000_frames_costs_what_is_judged(segmenter: Segmenter) -> None:
    """Bounded, only the judged frames and the keyframes are ever read, however long the clip is."""
    read: list[int] = []

    def load(clip: Clip, indices: Sequence[int]) -> Any:
        read.extend(indices)
        return [np.full((HEIGHT, WIDTH, 3), t % 251, dtype=np.uint8) for t in indices]

    clip = Clip("endless", tuple(map(str, range(2000))), HEIGHT, WIDTH)
    nothing = Masklets(HEIGHT, WIDTH, ((None,) * 2000,), 2000)
    judged = tuple(evenly_spaced(0, 1999, 16))
    requests = [
        PropagateRequest(clip, k, state(k), nothing, sorted({*judged, k}), judged, with_masks=False) for k in (7, 1000)
    ]
    for answer in RequestScorer(segmenter, load=load).score(requests):
        assert len(answer.judged.j) == 16  # type: ignore[union-attr]
    assert sorted(read) == sorted({*judged, 7, 1000})
