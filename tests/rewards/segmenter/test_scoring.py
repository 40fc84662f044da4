"""Requests to scores: rules, batching, caching, and clips that cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rewards.segmenter import (
    BoxRequest,
    BoxScores,
    MaskRequest,
    PointRequest,
    PropagateRequest,
    RequestScorer,
    Segmenter,
    SegRequest,
    encode_rles,
    mask_iou,
    mask_to_clip_size,
)
from rollout.errors import DataError
from rollout.types import Clip, Masklets, decode_rle
from tests.rewards.segmenter.clips import FRAMES, HEIGHT, WIDTH, write_clip
from tests.rewards.segmenter.conftest import random_segmenter


def load(clip: Clip, indices: Sequence[int]) -> list[Image.Image]:
    out = []
    for t in indices:
        if not Path(clip.frames[t]).exists():
            raise DataError(f"clip {clip.name}: frame {t} is missing: {clip.frames[t]}")
        out.append(Image.open(clip.frames[t]))
    return out


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> tuple[Clip, Masklets]:
    return write_clip(tmp_path_factory.mktemp("clips"))


def scorer_of(segmenter: Segmenter, resident: int = 64) -> RequestScorer:
    return RequestScorer(segmenter, max_resident_frames=resident, max_batch=4, load=load)


def seg_request(clip: Clip, masklets: Masklets, seed: int = 0, skip: int | None = None) -> SegRequest:
    rng = np.random.default_rng(seed)
    states = [rng.normal(size=32).astype(np.float32) for _ in range(3)]
    return SegRequest(clip, masklets, (0, 2, 5), [None if t == skip else s for t, s in enumerate(states)], (3, 1, 5))


def test_seg_scores_equal_direct_calls(segmenter: Segmenter, squares: tuple[Clip, Masklets]) -> None:
    clip, masklets = squares
    request = seg_request(clip, masklets, skip=1)
    scores = scorer_of(segmenter).score([request])[0]
    with torch.no_grad():
        features = segmenter.encode(segmenter.preprocess(load(clip, range(FRAMES))))
        for turn, keyframe in ((0, 3), (2, 5)):
            frames = [0, 2, 5, keyframe]
            logits, _ = segmenter.decode(features, frames, torch.from_numpy(request.states[turn]).expand(4, -1))
            truth = torch.from_numpy(np.stack([masklets.union(t) for t in frames]))
            ious = mask_iou(mask_to_clip_size(logits, HEIGHT, WIDTH), truth).tolist()
            assert scores.video_ious[turn] == pytest.approx(ious[:3], abs=2e-3)
            assert scores.keyframe_ious[turn] == pytest.approx(ious[3], abs=2e-3)
    assert scores.video_ious[1] == (0.0, 0.0, 0.0) and scores.keyframe_ious[1] == 0.0


def test_ground_truth_masks_score_one_even_where_nothing_is_visible(
    segmenter: Segmenter, squares: tuple[Clip, Masklets]
) -> None:
    clip, masklets = squares
    rles = encode_rles(np.stack([masklets.union(t) for t in range(FRAMES)]))
    request = MaskRequest(clip, masklets, (0, 4, 5), [[rles[0], rles[4], rles[5]], None], (2, 5), [rles[2], None])
    scores = scorer_of(segmenter).score([request])[0]
    assert scores.video_ious == ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    assert scores.keyframe_ious == (1.0, 0.0)
    assert not masklets.union(5).any()


def test_wrong_masks_score_their_iou(segmenter: Segmenter, squares: tuple[Clip, Masklets]) -> None:
    clip, masklets = squares
    half = masklets.union(0)
    half[:, : WIDTH // 2] = False
    expected = half.sum() / masklets.union(0).sum()
    request = MaskRequest(clip, masklets, (0,), [encode_rles(half[None])], (0,), encode_rles(half[None]))
    scores = scorer_of(segmenter).score([request])[0]
    assert 0 < expected < 1 and scores.video_ious[0][0] == pytest.approx(expected)


def test_a_group_shares_one_encoding_and_equals_one_at_a_time(
    segmenter: Segmenter, squares: tuple[Clip, Masklets]
) -> None:
    clip, masklets = squares
    group = [seg_request(clip, masklets, seed) for seed in range(4)]
    scorer = scorer_of(segmenter)
    together = scorer.score(group)
    assert scorer.cache.encoded_frames == len({0, 2, 5, 3, 1})
    for request, scores in zip(group, together, strict=True):
        alone = scorer_of(segmenter).score([request])[0]
        np.testing.assert_allclose(alone.video_ious, scores.video_ious, atol=2e-3)
        np.testing.assert_allclose(alone.keyframe_ious, scores.keyframe_ious, atol=2e-3)
    assert len({scores.video_ious for scores in together}) > 1


def test_propagated_masks_come_at_the_clips_size(segmenter: Segmenter, squares: tuple[Clip, Masklets]) -> None:
    clip, masklets = squares
    state = np.random.default_rng(1).normal(size=32).astype(np.float32)
    requests = [
        PropagateRequest(clip, 2, state, masklets),
        PropagateRequest(clip, 2, None, masklets),
        PropagateRequest(clip, 5, state),
    ]
    first, nothing, other = scorer_of(segmenter).score(requests)
    with torch.no_grad():
        features = segmenter.encode(segmenter.preprocess(load(clip, range(FRAMES))))
        logits = segmenter.propagate(features, [2], states=torch.from_numpy(state)[None])
    expected = mask_to_clip_size(logits[0], HEIGHT, WIDTH)
    masks = np.stack([decode_rle(rle) for rle in first.rles])
    assert masks.shape == (FRAMES, HEIGHT, WIDTH) and (masks != expected.numpy()).mean() < 1e-3
    truth = torch.from_numpy(np.stack([masklets.union(t) for t in range(FRAMES)]))
    assert first.ious == pytest.approx(mask_iou(torch.from_numpy(masks), truth).tolist())
    assert not any(decode_rle(rle).any() for rle in nothing.rles)
    assert nothing.ious == (0.0,) * 5 + (1.0,)
    assert other.ious is None and len(other.rles) == FRAMES


def test_boxes_are_kept_object_by_object(segmenter: Segmenter, squares: tuple[Clip, Masklets]) -> None:
    """Each as if it had been asked alone; their union is the merged prediction."""
    clip, _ = squares
    boxes = [(2.0, 2.0, 14.0, 14.0), (20.0, 10.0, 40.0, 30.0)]
    frames = range(FRAMES)

    def ask(*wanted: tuple[float, ...], with_masks: bool = True) -> BoxScores:
        request = BoxRequest(clip, frames, 2, wanted, None, with_masks=with_masks)
        answer = scorer_of(segmenter).score([request])[0]
        assert isinstance(answer, BoxScores)
        return answer

    both = ask(*boxes)
    assert both.objects is not None and both.rles is not None and len(both.objects) == 2
    masks = np.stack([[decode_rle(rle) for rle in track] for track in both.objects])
    assert np.array_equal(masks.any(axis=0), np.stack([decode_rle(rle) for rle in both.rles]))
    for box, track in zip(boxes, masks, strict=True):
        alone = ask(box)
        assert alone.objects is None and alone.rles is not None
        assert (np.stack([decode_rle(rle) for rle in alone.rles]) != track).mean() < 1e-3
    assert ask().objects == () and ask(*boxes, with_masks=False).objects is None


def test_nothing_asked_is_no_object(segmenter: Segmenter, squares: tuple[Clip, Masklets]) -> None:
    clip, _ = squares
    state = np.random.default_rng(1).normal(size=32).astype(np.float32)
    requests = [PropagateRequest(clip, 2, state), PropagateRequest(clip, 2, None)]
    one, nothing = scorer_of(segmenter).score(requests)
    assert one.objects is None and nothing.objects == ()


def test_a_clip_longer_than_the_cache_gives_the_same_masks(
    segmenter: Segmenter, squares: tuple[Clip, Masklets]
) -> None:
    clip, masklets = squares
    state = np.random.default_rng(1).normal(size=32).astype(np.float32)
    requests = [PropagateRequest(clip, k, state, masklets) for k in (0, 4)]
    small = scorer_of(segmenter, resident=2)
    for long, short in zip(small.score(requests), scorer_of(segmenter).score(requests), strict=True):
        assert long.ious == pytest.approx(short.ious, abs=2e-3)
    assert len(small.cache) <= 2 and small.cache.encoded_frames > FRAMES


def test_boxes_are_tracked_one_object_each_and_merged(segmenter: Segmenter, squares: tuple[Clip, Masklets]) -> None:
    clip, masklets = squares
    boxes = [(8.0, 5.0, 20.0, 17.0), (28.0, 20.0, 44.0, 36.0)]
    frames = (0, 2, 4, 5)
    both, none = scorer_of(segmenter).score(
        [BoxRequest(clip, frames, 2, boxes, masklets), BoxRequest(clip, frames, 2, [], masklets)]
    )
    with torch.no_grad():
        features = segmenter.encode(segmenter.preprocess(load(clip, frames)))
        logits = segmenter.propagate(features, [1, 1], boxes=torch.tensor(boxes), clip_size=(HEIGHT, WIDTH))
    merged = mask_to_clip_size(logits.flatten(0, 1), HEIGHT, WIDTH).reshape(2, 4, HEIGHT, WIDTH).any(0)
    truth = torch.from_numpy(np.stack([masklets.union(t) for t in frames]))
    assert both.ious == pytest.approx(mask_iou(merged, truth).tolist(), abs=2e-3)
    assert none.ious == (0.0, 0.0, 0.0, 1.0)


def test_a_click_is_answered_on_its_own_frame_alone(segmenter: Segmenter, squares: tuple[Clip, Masklets]) -> None:
    clip, _ = squares
    scorer = scorer_of(segmenter)
    clicks = [PointRequest(clip, t, (x, 20.0)) for t, x in ((4, 30.0), (1, 40.5), (4, 55.0), (2, 3.0), (0, 20.0))]
    together = scorer.score(clicks)
    assert scorer.cache.encoded_frames == 4, "no frame but those that were clicked is read"
    for click, found in zip(clicks, together, strict=True):
        features = segmenter.encode(segmenter.preprocess(load(clip, [click.frame])))
        logits = segmenter.propagate(features, [0], points=torch.tensor([click.point]), clip_size=(HEIGHT, WIDTH))
        (expected,) = encode_rles(mask_to_clip_size(logits[0], HEIGHT, WIDTH))
        assert found.rles == (expected,) and found.ious is None
    assert len({str(answer.rles) for answer in together}) > 2
    for frame, point in ((FRAMES, (1.0, 1.0)), (0, (WIDTH, 1.0)), (0, (1.0, -1.0))):
        with pytest.raises(ValueError, match=r"lies outside|names frame"):
            PointRequest(clip, frame, point)


def test_new_decoder_weights_make_cached_features_stale(squares: tuple[Clip, Masklets]) -> None:
    scorer, other = scorer_of(random_segmenter()), random_segmenter()
    with torch.no_grad():
        for p in other.trainable_parameters():
            p.mul_(0.5)
    request = seg_request(*squares)
    before = scorer.score([request])[0]
    scorer.load_decoder(other.decoder_state_dict())
    after = scorer.score([request])[0]
    assert after == scorer_of(other).score([request])[0] and after != before


def test_a_missing_frame_fails_only_the_requests_that_need_it(segmenter: Segmenter, tmp_path: Path) -> None:
    clip, masklets = write_clip(tmp_path)
    sound = write_clip(tmp_path, "sound")
    Path(clip.frames[4]).unlink()
    state = np.zeros(32, dtype=np.float32)
    needs_it = SegRequest(clip, masklets, (0, 4), [state], (1,))
    outcomes = scorer_of(segmenter).score([seg_request(clip, masklets), needs_it, seg_request(*sound)])
    assert isinstance(outcomes[1], DataError)
    assert "squares" in str(outcomes[1]) and "frame 4" in str(outcomes[1])
    assert len(outcomes[0].video_ious) == 3 and len(outcomes[2].video_ious) == 3


def test_requests_that_contradict_the_clip_are_refused(squares: tuple[Clip, Masklets]) -> None:
    clip, masklets = squares
    with pytest.raises(ValueError, match=r"clip squares: keyframes names frame 6; the clip has 0\.\.5"):
        SegRequest(clip, masklets, (0,), [None], (6,))
    with pytest.raises(ValueError, match="2 keyframes for 1 turns"):
        SegRequest(clip, masklets, (0,), [None], (0, 1))
    with pytest.raises(ValueError, match=r"keyframe 3 is not among frames \(0, 2\)"):
        BoxRequest(clip, (0, 2), 3, [], masklets)
    with pytest.raises(DataError, match="masks are 10x10, frames 40x56"):
        SegRequest(clip, Masklets(10, 10, (), FRAMES), (0,), [None], (0,))
    with pytest.raises(DataError, match="masks for 3 frames of 6"):
        SegRequest(clip, Masklets(HEIGHT, WIDTH, (), 3), (0,), [None], (0,))


def test_masks_that_are_asked_for_are_those_that_score(segmenter: Segmenter, squares: tuple[Clip, Masklets]) -> None:
    """One of a batch asks; its masks give its IoUs back, and the others' answers do not change."""
    clip, masklets = squares
    plain = seg_request(clip, masklets, seed=1)
    asking = replace(seg_request(clip, masklets, skip=1), with_masks=True)
    alone = scorer_of(segmenter).score([seg_request(clip, masklets, skip=1)])[0]
    first, second = scorer_of(segmenter).score([plain, asking])
    assert first.rles is None and second.rles is not None and second.rles[1] is None
    assert second.video_ious == alone.video_ious and second.keyframe_ious == alone.keyframe_ious
    for turn in (0, 2):
        frames = [*asking.spatial_frames, asking.keyframes[turn]]
        for rle, frame, iou in zip(
            second.rles[turn], frames, [*second.video_ious[turn], second.keyframe_ious[turn]], strict=True
        ):
            mask, truth = decode_rle(rle), masklets.union(frame)
            assert mask.shape == (HEIGHT, WIDTH) and isinstance(rle["counts"], str)
            union = (mask | truth).sum()
            assert iou == pytest.approx((mask & truth).sum() / union if union else 1.0)
