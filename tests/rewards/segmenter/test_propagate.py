"""Propagation equals sam2's own predictor, and a batch equals its items one at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rewards.segmenter import Segmenter
from rewards.segmenter.build import DECODER_OPTIONS, NEEDED_OPTIONS
from rewards.segmenter.heads import NO_OBJECT_LOGIT
from tests.rewards.segmenter.stock import FILLS_HOLES, builder_options, stock_predictor, stock_propagate

STABILITY = "dynamic_multimask_via_stability"
SIZE = (90, 120)
KEYFRAMES = [0, 3, 9, 16, 19]
LOGITS_TOLERANCE = 1e-5
BOXES = torch.tensor(
    [[10.0, 5, 70, 60], [0, 0, 119, 89], [30, 20, 50, 40], [60, 10, 115, 80], [5, 40, 40, 85]],
)


def resized(logits: Tensor) -> Tensor:
    return F.interpolate(logits[:, None], size=SIZE, mode="bilinear", align_corners=False)[:, 0]


def assert_same_masks(ours: Tensor, stock: Tensor) -> None:
    """Logits agree to rounding, and next to no pixel changes side."""
    torch.testing.assert_close(ours, stock, atol=LOGITS_TOLERANCE, rtol=1e-5)
    assert ((ours > 0) != (stock > 0)).float().mean() < 1e-5


def test_fixture_gates_some_masks_and_not_all(segmenter: Segmenter, pixels: Tensor, states: Tensor) -> None:
    with torch.no_grad():
        steps = segmenter.propagation_steps(segmenter.encode(pixels), KEYFRAMES, states=states[:5])
        scores = torch.cat([s.head.object_score for s in steps])
    assert 0.02 < (scores > 0).float().mean() < 0.98


def test_without_the_gate_no_mask_is_blanked(segmenter: Segmenter, pixels: Tensor, states: Tensor) -> None:
    ungated = Segmenter(replace(segmenter.config, propagation_gate=False))
    ungated.load_state_dict(segmenter.state_dict())
    masks = [s.propagate(s.encode(pixels), KEYFRAMES, states=states[:5]) for s in (segmenter, ungated)]
    blank, none = ((m == NO_OBJECT_LOGIT).flatten(2).all(-1) for m in masks)
    assert blank.any() and not blank.all() and not none.any()
    seen = [item for item, keyframe in enumerate(KEYFRAMES) if not blank[item, keyframe]]
    for item in seen:  # where nothing was blanked yet, the gate changes nothing
        torch.testing.assert_close(masks[1][item, KEYFRAMES[item]], masks[0][item, KEYFRAMES[item]])
    assert seen


def test_states_equal_stock(segmenter: Segmenter, pixels: Tensor, states: Tensor) -> None:
    with torch.no_grad():
        ours = segmenter.propagate(segmenter.encode(pixels), KEYFRAMES, states=states[:5])
    predictor = stock_predictor(segmenter, as_built=False)
    for item, keyframe in enumerate(KEYFRAMES):
        assert_same_masks(resized(ours[item]), stock_propagate(predictor, pixels, keyframe, SIZE, state=states[item]))


def test_boxes_equal_stock(segmenter: Segmenter, pixels: Tensor) -> None:
    with torch.no_grad():
        ours = segmenter.propagate(segmenter.encode(pixels), KEYFRAMES, boxes=BOXES, clip_size=SIZE)
    predictor = stock_predictor(segmenter)
    for item, keyframe in enumerate(KEYFRAMES):
        assert_same_masks(resized(ours[item]), stock_propagate(predictor, pixels, keyframe, SIZE, box=BOXES[item]))


def test_points_equal_stock(segmenter: Segmenter, pixels: Tensor) -> None:
    points = (BOXES[:, :2] + BOXES[:, 2:]) / 2
    with torch.no_grad():
        ours = segmenter.propagate(segmenter.encode(pixels), KEYFRAMES, points=points, clip_size=SIZE)
    predictor = stock_predictor(segmenter)
    for item, keyframe in enumerate(KEYFRAMES):
        assert_same_masks(resized(ours[item]), stock_propagate(predictor, pixels, keyframe, SIZE, point=points[item]))


def test_the_builders_options_matter_here(segmenter: Segmenter, pixels: Tensor) -> None:
    """Each of them moves a mask of the boxes above, or their agreement with stock would say nothing of it."""
    predictor = stock_predictor(segmenter)
    bare = stock_propagate(predictor, pixels[:4], 0, SIZE, box=BOXES[0])
    for module, option in ((predictor, "binarize_mask_from_pts_for_mem_enc"), (predictor.sam_mask_decoder, STABILITY)):
        assert getattr(module, option)
        setattr(module, option, False)
        without = stock_propagate(predictor, pixels[:4], 0, SIZE, box=BOXES[0])
        assert (without - bare).abs().max() > 20 * LOGITS_TOLERANCE
        setattr(module, option, True)


def test_boxes_have_the_options_of_the_builder(segmenter: Segmenter) -> None:
    options = builder_options()
    assert options == {
        "sam_mask_decoder_extra_args": DECODER_OPTIONS,
        "binarize_mask_from_pts_for_mem_enc": NEEDED_OPTIONS["binarize_mask_from_pts_for_mem_enc"],
        FILLS_HOLES: 8,
    }
    for option, value in DECODER_OPTIONS.items():
        assert getattr(segmenter.sam2_model.sam_mask_decoder, option) == value


@pytest.mark.parametrize("length", [1, 2, 5])
def test_short_clips_equal_stock(segmenter: Segmenter, pixels: Tensor, states: Tensor, length: int) -> None:
    with torch.no_grad():
        ours = segmenter.propagate(segmenter.encode(pixels[:length]), [length - 1], states=states[:1])
    predictor = stock_predictor(segmenter, as_built=False)
    stock = stock_propagate(predictor, pixels[:length], length - 1, SIZE, state=states[0])
    assert_same_masks(resized(ours[0]), stock)


@pytest.mark.parametrize("max_batch", [2, 64])
def test_batch_equals_one_at_a_time(segmenter: Segmenter, pixels: Tensor, states: Tensor, max_batch: int) -> None:
    keyframes = [4, 19, 4, 12, 0, 18]
    with torch.no_grad():
        features = segmenter.encode(pixels)
    together = segmenter.propagate(features, keyframes, states=states, max_batch=max_batch)
    for i, keyframe in enumerate(keyframes):
        alone = segmenter.propagate(features, [keyframe], states=states[i : i + 1])
        torch.testing.assert_close(together[i], alone[0], atol=LOGITS_TOLERANCE, rtol=1e-5)


def test_nobody_waits_for_a_neighbour_to_turn(segmenter: Segmenter, pixels: Tensor, states: Tensor) -> None:
    """Whatever their keyframes, items need a step for each of their frames, and are all in it."""
    keyframes = [4, 19, 4, 12, 0, 18]
    with torch.no_grad():
        steps = list(segmenter.propagation_steps(segmenter.encode(pixels), keyframes, states=states))
    assert [s.items for s in steps] == [list(range(6))] * len(pixels)
    walks = [[s.frames[i] for s in steps] for i in range(6)]
    assert walks == [[*range(k, len(pixels)), *reversed(range(k))] for k in keyframes]


def test_longer_videos_go_together(segmenter: Segmenter, pixels: Tensor, states: Tensor) -> None:
    """From the number of pointers on; below it distances count for more."""
    with torch.no_grad():
        features = segmenter.encode(pixels)
    videos = [list(range(20)), list(range(0, 17)), list(range(3, 19))]
    keyframes = [4, 16, 7]
    steps = segmenter.propagation_steps(features, keyframes, states=states[:3], videos=videos)
    with torch.no_grad():
        found = [(i, f, logits) for s in steps for i, f, logits in zip(s.items, s.frames, s.head.logits, strict=True)]
    assert sorted((i, f) for i, f, _ in found) == [(i, f) for i in range(3) for f in range(len(videos[i]))]
    for i, video in enumerate(videos):
        given = {"states": states[i : i + 1], "videos": [video]}
        alone = segmenter.propagate(features, [keyframes[i]], **given)[0]  # type: ignore[arg-type]
        for _, f, logits in (one for one in found if one[0] == i):
            torch.testing.assert_close(logits, alone[f], atol=LOGITS_TOLERANCE, rtol=1e-5)
    with pytest.raises(ValueError, match=r"videos of \[15, 16\] frames cannot be propagated together"):
        short = [list(range(16)), list(range(15))]
        segmenter.propagate(features, [0, 0], states=states[:2], videos=short)


@pytest.mark.parametrize("kind", ["states", "boxes"])
def test_a_neighbour_that_is_not_finite_spoils_nobody_else(
    segmenter: Segmenter, pixels: Tensor, states: Tensor, kind: str
) -> None:
    """In the backward pass an item near the end has no memory where the others have theirs of the forward pass."""
    keyframes = [2, 3, 5]
    with torch.no_grad():
        features = segmenter.encode(pixels[:6])
    prompts = {"states": states[:3].clone()} if kind == "states" else {"boxes": BOXES[:3].clone()}
    prompts[kind][0] = float("nan")
    size = {} if kind == "states" else {"clip_size": SIZE}
    together = segmenter.propagate(features, keyframes, **prompts, **size)  # type: ignore[arg-type]
    first = next(segmenter.propagation_steps(features, keyframes, **prompts, **size))  # type: ignore[arg-type]
    assert not first.head.pointer[0].isfinite().all()  # else this tests nothing
    for i in (1, 2):
        one = {kind: prompts[kind][i : i + 1]}
        alone = segmenter.propagate(features, [keyframes[i]], **one, **size)  # type: ignore[arg-type]
        torch.testing.assert_close(together[i], alone[0], atol=LOGITS_TOLERANCE, rtol=1e-5)


def test_weights_rounded_once_change_no_mask(segmenter: Segmenter, pixels: Tensor, states: Tensor) -> None:
    """In bfloat16 every use rounds them; a decoder that is loaded afterwards is rounded as well."""
    half = Segmenter(replace(segmenter.config, compute_dtype="bfloat16"))
    half.load_state_dict(segmenter.state_dict())
    with torch.no_grad():
        before = half.propagate(half.encode(pixels[:6]), [2, 5], states=states[:2])
        half.round_weights()
        half.load_decoder_state_dict(segmenter.decoder_state_dict())
        after = half.propagate(half.encode(pixels[:6]), [2, 5], states=states[:2])
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16, torch.float32}
    assert torch.equal(before, after)
    whole = {n: p.clone() for n, p in segmenter.named_parameters()}
    segmenter.round_weights()
    assert all(torch.equal(p, whole[n]) and p.dtype == torch.float32 for n, p in segmenter.named_parameters())


def test_the_state_acts_in_every_frame(segmenter: Segmenter, pixels: Tensor, states: Tensor) -> None:
    with torch.no_grad():
        features = segmenter.encode(pixels[:6])
        steps = list(segmenter.propagation_steps(features, [0, 0], states=states[:2]))
    far = next(s for s in steps if s.frames[0] == 5)
    assert not torch.allclose(far.head.candidates[0], far.head.candidates[1], atol=1e-2)


def test_gradients_reach_memory(segmenter: Segmenter, pixels: Tensor, states: Tensor) -> None:
    segmenter.zero_grad()
    features = segmenter.encode(pixels[:3])
    sum(s.head.candidates.mean() for s in segmenter.propagation_steps(features, [1], states=states[:1])).backward()
    memory_weight = segmenter.sam2_model.memory_encoder.out_proj.weight
    assert memory_weight.grad is not None and memory_weight.grad.abs().sum() > 0
    segmenter.zero_grad()


def test_bad_arguments_say_so(segmenter: Segmenter, pixels: Tensor, states: Tensor) -> None:
    with torch.no_grad():
        features = segmenter.encode(pixels[:2])
    with pytest.raises(ValueError, match=r"keyframe 2 lies outside the clip's 0\.\.1"):
        segmenter.propagate(features, [2], states=states[:1])
    with pytest.raises(ValueError, match="clip_size"):
        segmenter.propagate(features, [0], boxes=BOXES[:1])
    with pytest.raises(ValueError, match=r"points must be \(1, 2\)"):
        segmenter.propagate(features, [0], points=BOXES[:1], clip_size=SIZE)
    with pytest.raises(ValueError, match="either states or boxes, or both, or points alone"):
        segmenter.propagate(features, [0])
    with pytest.raises(ValueError, match=r"states must be \(1, 32\); found \(1, 31\)"):
        segmenter.propagate(features, [0], states=states[:1, :31])
