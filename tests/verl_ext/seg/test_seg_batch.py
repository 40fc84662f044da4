"""From episodes to pairs, token masks and jagged rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rollout.errors import DataError
from rollout.types import Clip, Expression, Masklets, Sample
from verl_ext.seg.batch import (
    KEYFRAME,
    VIDEO,
    SegBatch,
    collect,
    ground_truth,
    mask_totals,
    rows_with_dummy,
    rows_without_dummy,
    token_mask,
)
from verl_ext.seg.mask_losses import mask_losses, union_mask


def sample_of(name: str, frames: int = 6) -> Sample:
    return Sample(Clip(name, tuple(f"{name}/{t}.jpg" for t in range(frames)), 8, 8), Expression("0", "it"))


def episode(turns: list[tuple[int, list[int]]], spatial: tuple[int, ...] = (0, 5)) -> dict[str, Any]:
    """Turns as (keyframe, positions of their [SEG])."""
    return {"turns": [{"keyframe": k, "seg_positions": p} for k, p in turns], "spatial_frames": spatial}


A, B = sample_of("a"), sample_of("b")
EPISODES = [episode([(3, [7]), (5, [20, 23])]), episode([(3, [])]), episode([(2, [4])])]


def test_each_state_is_paired_with_its_keyframe_and_the_spatial_frames() -> None:
    batch = collect([A, B, B], EPISODES, with_video_frames=True)
    assert batch.counts == [3, 0, 1]
    drawn = [(s, batch.frames[f][0].clip.name, batch.frames[f][1], kind, b) for s, f, kind, b in batch.pairs]
    assert [d for d in drawn if d[3] == KEYFRAME] == [
        (0, "a", 3, KEYFRAME, 0),
        (1, "a", 5, KEYFRAME, 0),
        (2, "a", 5, KEYFRAME, 0),
        (3, "b", 2, KEYFRAME, 2),
    ]
    assert [d for d in drawn if d[3] == VIDEO] == [
        (s, "a" if b == 0 else "b", t, VIDEO, b) for s, b in ((0, 0), (1, 0), (2, 0), (3, 2)) for t in (0, 5)
    ]


def test_frames_are_distinct_and_clips_are_not_mixed_up() -> None:
    batch = collect([A, B, B], EPISODES, with_video_frames=True)
    keys = [(s.clip.name, t) for s, t in batch.frames]
    assert len(keys) == len(set(keys)) == 6  # a: 3, 0, 5; b: 2, 0, 5


def test_keyframe_pairs_name_one_pair_per_state_in_order() -> None:
    batch = collect([A, B, B], EPISODES, with_video_frames=True)
    rows = batch.keyframe_pairs()
    assert batch.column(0)[rows].tolist() == [0, 1, 2, 3]
    assert batch.column(2)[rows].tolist() == [KEYFRAME] * 4


def test_masks_are_counted_alike_before_and_after_they_are_laid_out() -> None:
    batch = collect([A, B, B], EPISODES, with_video_frames=True)
    assert batch.mask_counts().tolist() == [[6, 3], [0, 0], [2, 1]]
    assert mask_totals(EPISODES) == (8, 4) == tuple(batch.mask_counts().sum(dim=0).tolist())


def test_without_video_frames_only_keyframes_are_drawn() -> None:
    batch = collect([A, B, B], EPISODES, with_video_frames=False)
    assert batch.column(2).tolist() == [KEYFRAME] * 4


def test_token_mask_is_the_same_tokens_packed_and_padded() -> None:
    batch, lengths = SegBatch(positions=[[1, 4], [], [2]]), [6, 3, 4]
    padded = token_mask(batch, lengths, torch.Size((3, 6)), packed=False)
    packed = token_mask(batch, lengths, torch.Size((1, 13)), packed=True)
    assert torch.nonzero(padded).tolist() == [[0, 1], [0, 4], [2, 2]]
    unpadded = torch.cat([row[:n] for row, n in zip(padded, lengths, strict=True)])
    assert torch.equal(packed[0], unpadded)


def test_a_batch_without_states_is_empty_everywhere() -> None:
    batch = collect([A], [episode([(3, [])])], with_video_frames=True)
    assert batch.pairs == [] and batch.frames == []
    assert batch.column(0).shape == batch.keyframe_pairs().shape == (0,)
    assert ground_truth(batch, (4, 4), union_mask).shape == (0, 4, 4)
    assert torch.equal(mask_losses(batch, torch.zeros(0, 4, 4))[0], torch.zeros(1, 2))


@pytest.mark.parametrize("counts", [[2, 0, 1], [0, 0, 0], [3, 0, 0], [1, 1, 1]])
@pytest.mark.parametrize("width", [1, 5])
def test_rows_with_dummy_round_trip(counts: list[int], width: int) -> None:
    values = torch.arange(sum(counts) * width, dtype=torch.float32).view(-1, width)
    nested = rows_with_dummy(values if width > 1 else values.flatten(), counts)
    assert nested.size(0) == 3 and all(len(row) > 0 for row in nested.unbind())
    rows = list(rows_without_dummy(nested, width))
    assert [len(r) for r in rows] == counts
    assert torch.equal(torch.cat(rows), values)


def test_two_questions_about_one_clip_learn_their_own_masks() -> None:
    """They share its encoded frames in a micro-batch, not the answer."""
    from pycocotools import mask as coco_mask

    def asked(name: str, columns: slice) -> Sample:
        mask = np.zeros((8, 8), dtype=np.uint8)
        mask[:, columns] = 1
        rle = coco_mask.encode(np.asfortranarray(mask))
        return Sample(A.clip, Expression(name, name), Masklets(8, 8, ((rle,) * A.clip.num_frames,), A.clip.num_frames))

    left, right = asked("left", slice(0, 4)), asked("right", slice(4, 8))
    batch = collect([left, right], [episode([(1, [7])], spatial=(0,))] * 2, with_video_frames=True)
    assert len(batch.frames) == 2 and len(batch.pairs) == 4
    masks = ground_truth(batch, (8, 8), union_mask)
    assert masks[:2, :, :4].all() and not masks[:2, :, 4:].any()
    assert masks[2:, :, 4:].all() and not masks[2:, :, :4].any()


def test_a_token_without_ground_truth_does_not_learn_that_nothing_is_there() -> None:
    batch = collect([A], [episode([(3, [7])])], with_video_frames=True)
    with pytest.raises(DataError, match="a/0: its split has no masks"):
        mask_losses(batch, torch.zeros(3, 4, 4))


def test_mask_losses_average_video_and_keyframe_masks_apart() -> None:
    from pycocotools import mask as coco_mask

    full = coco_mask.encode(np.asfortranarray(np.ones((8, 8), dtype=np.uint8)))
    seen = Masklets(8, 8, ((full,) * 3 + (None,) * 3,), 6)
    sample = Sample(A.clip, A.expression, seen)
    batch = collect([sample], [episode([(1, [7])], spatial=(0, 5))], with_video_frames=True)
    logits = torch.full((3, 4, 4), 20.0)
    bce, dice, _ = mask_losses(batch, logits)
    assert bce.shape == dice.shape == (1, 2)
    assert bce[0, KEYFRAME] < 1e-6 and dice[0, KEYFRAME] < 1e-6  # frame 1 is all target
    assert bce[0, VIDEO] == pytest.approx(10.0, abs=1e-3)  # frame 0 is right, frame 5 wrong in every pixel
    assert dice[0, VIDEO] == pytest.approx((1 - 1 / 17) / 2, abs=1e-3)


def test_masks_that_are_far_from_the_truth_can_be_left_out() -> None:
    """Of an answer's three masks the one of another object counts as no loss, and gets no gradient; the mean stays one
    over all three."""
    from pycocotools import mask as coco_mask

    left = np.zeros((8, 8), dtype=np.uint8)
    left[:, :4] = 1
    rle = coco_mask.encode(np.asfortranarray(left))
    sample = Sample(A.clip, Expression("0", "it"), Masklets(8, 8, ((rle,) * 6,), 6))
    batch = collect([sample], [episode([(1, [7])], spatial=(0, 2))], with_video_frames=True)
    right, wrong = (
        torch.where(torch.from_numpy(left) > 0, 3.0, -3.0),
        torch.where(torch.from_numpy(left) > 0, -3.0, 3.0),
    )
    logits = torch.stack([right, right, wrong]).requires_grad_()  # the keyframe's, then those of both spatial frames
    everything, _, all_kept = mask_losses(batch, logits)
    bce, dice, kept = mask_losses(batch, logits, least=0.5)
    assert all_kept.tolist() == [[1.0, 1.0]] and kept.tolist() == [[0.5, 1.0]]
    assert torch.equal(bce[:, 1], everything[:, 1])
    one = torch.nn.functional.softplus(torch.tensor(-3.0)).item()
    assert bce[0, 0].item() == pytest.approx(one / 2)
    assert everything[0, 0].item() == pytest.approx((one + one + 3) / 2)
    (bce.sum() + dice.sum()).backward()
    assert logits.grad is not None and logits.grad[2].abs().max() == 0
    assert (logits.grad[:2].abs().amax((1, 2)) > 0).all()


def test_an_empty_mask_of_an_empty_frame_is_right() -> None:
    nothing = Masklets(8, 8, (), 6)
    batch = collect([Sample(A.clip, Expression("0", "it"), nothing)], [episode([(1, [7])], spatial=())], True)
    masks = torch.full((1, 8, 8), -3.0)
    assert torch.equal(mask_losses(batch, masks, least=0.5)[0], mask_losses(batch, masks)[0])
    assert not mask_losses(batch, -masks, least=0.5)[0].any()
