"""Single-frame decoding of ``[SEG]`` states by the rules of SPEC 2.2."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from rewards.segmenter import Segmenter, mask_to_clip_size
from tests.rewards.segmenter.conftest import random_segmenter
from tests.rewards.segmenter.stock import stock_predictor, stock_propagate


def test_preprocess_equals_sam2s_own_loader(segmenter: Segmenter) -> None:
    image = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    resized = np.asarray(Image.fromarray(image).resize((64, 64))) / 255.0
    expected = (resized - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    for frame in (image, Image.fromarray(image)):
        pixels = segmenter.preprocess([frame])
        np.testing.assert_allclose(pixels[0].permute(1, 2, 0).numpy(), expected, atol=1e-5)


def test_equals_stock_on_a_one_frame_clip_apart_from_the_gate(
    segmenter: Segmenter, pixels: Tensor, states: Tensor
) -> None:
    frames = [3, 0, 7, 3, 11, 15]
    with torch.no_grad():
        logits, iou = segmenter.decode(segmenter.encode(pixels), frames, states)
        head = segmenter.decode_candidates(segmenter.encode(pixels), frames, states)
    torch.testing.assert_close(iou, head.candidate_ious.max(dim=1).values)
    predictor = stock_predictor(segmenter)
    gated = 0
    for i, t in enumerate(frames):
        stock = stock_propagate(predictor, pixels[t : t + 1], 0, (64, 64), state=states[i])
        if head.object_score[i] > 0:
            ours = torch.nn.functional.interpolate(logits[i][None, None], (64, 64), mode="bilinear")[0]
            torch.testing.assert_close(ours, stock, atol=1e-5, rtol=1e-5)
        else:
            gated += 1
            assert (stock == -1024).all() and (logits[i] > -1024).all()
    assert 0 < gated < len(frames)


def test_gradients_reach_states_and_decoder_only(pixels: Tensor, states: Tensor) -> None:
    segmenter = random_segmenter()
    segmenter.freeze_all_but_decoder()
    leaf = states.clone().requires_grad_()
    segmenter.decode(segmenter.encode(pixels[:2]), [0, 1, 0, 1, 0, 1], leaf)[0].square().mean().backward()
    assert leaf.grad is not None and (leaf.grad.abs().sum(1) > 0).all()
    with_gradient = {n.split(".")[1] for n, p in segmenter.named_parameters() if p.grad is not None}
    assert with_gradient == {"sam_prompt_encoder", "sam_mask_decoder"}
    fine_projection = segmenter.sam2_model.sam_mask_decoder.conv_s0.weight
    assert fine_projection.grad is not None and fine_projection.grad.abs().sum() > 0


def test_decoder_weights_travel(segmenter: Segmenter, pixels: Tensor, states: Tensor) -> None:
    other = random_segmenter()
    with torch.no_grad():
        for p in other.trainable_parameters():
            p.mul_(0.9)
    weights = other.decoder_state_dict()
    assert {k.split(".")[0] for k in weights} == {"sam_prompt_encoder", "sam_mask_decoder"}
    fresh = random_segmenter()
    before = fresh.decode(fresh.encode(pixels[:1]), [0], states[:1])[0]
    fresh.load_decoder_state_dict({k: v for k, v in weights.items() if "gaussian" not in k})
    after = fresh.decode(fresh.encode(pixels[:1]), [0], states[:1])[0]
    expected = other.decode(other.encode(pixels[:1]), [0], states[:1])[0]
    assert torch.equal(after, expected) and not torch.allclose(before, after)


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_incomplete_decoder_weights_are_refused(segmenter: Segmenter, change: str) -> None:
    weights = segmenter.decoder_state_dict()
    if change == "missing":
        del weights["sam_mask_decoder.iou_token.weight"]
    else:
        weights["no_mem_embed"] = torch.zeros(1)
    with pytest.raises(ValueError, match="1 keys missing or unknown"):
        segmenter.load_decoder_state_dict(weights)


def test_bfloat16_is_close(segmenter: Segmenter, pixels: Tensor, states: Tensor) -> None:
    from dataclasses import replace

    half = Segmenter(replace(segmenter.config, compute_dtype="bfloat16"))
    half.load_state_dict(segmenter.state_dict())
    with torch.no_grad():
        features = half.encode(pixels[:2])
        rough, _ = half.decode(features, [0, 1], states[:2])
        exact = segmenter.decode_candidates(segmenter.encode(pixels[:2]), [0, 1], states[:2]).candidates
    assert features.levels[0].dtype == torch.bfloat16 and rough.dtype == torch.float32
    error = (rough[:, None] - exact).abs().flatten(2).mean(2).min(1).values
    assert (error < 0.1 * exact.abs().mean()).all()


def test_mask_is_the_resized_logit_above_zero() -> None:
    logits = torch.tensor([[[-1.0, 3.0]]])
    assert mask_to_clip_size(logits, 1, 4).tolist() == [[[False, False, True, True]]]
    assert mask_to_clip_size(torch.zeros(0, 8, 8), 3, 5).shape == (0, 3, 5)
