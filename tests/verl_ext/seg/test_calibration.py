"""The mask log-prob and how it joins the token's: numbers, gradients, and counts that must agree."""

from __future__ import annotations

import math

import pytest
import torch

from rollout.errors import ProtocolError
from verl_ext.seg.calibration import (
    TARGET_SIZE,
    SegCountMismatchError,
    binarise_rollout_mask,
    calibrate,
    calibrate_packed,
    mask_log_prob,
)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 3


def test_thresholds() -> None:
    logits = torch.tensor([-0.1, 0.0, 0.25, 0.5, 0.6])[:, None, None].expand(-1, 8, 8)
    assert binarise_rollout_mask(logits).all(dim=(1, 2)).tolist() == [False, False, True, True, True]
    assert binarise_rollout_mask(logits, "released").all(dim=(1, 2)).tolist() == [False, False, False, False, True]
    assert torch.equal(binarise_rollout_mask(logits, 0.5), binarise_rollout_mask(logits, "released"))
    with pytest.raises(ValueError, match="'paper' is unknown"):
        binarise_rollout_mask(logits, "paper")


def test_binarised_mask_is_small_bool_and_without_gradient() -> None:
    mask = binarise_rollout_mask(noise(2, 64, 48).requires_grad_())
    assert mask.shape == (2, TARGET_SIZE, TARGET_SIZE) and mask.dtype == torch.bool and not mask.requires_grad


def test_confident_masks_score_near_zero_and_wrong_ones_their_logit() -> None:
    target = torch.zeros(2, TARGET_SIZE, TARGET_SIZE, dtype=torch.bool)
    target[0] = True
    logits = torch.full((2, 16, 16), 20.0)
    assert mask_log_prob(logits, target).tolist() == pytest.approx([0.0, -20.0], abs=1e-6)
    assert mask_log_prob(torch.zeros(2, 16, 16), target).tolist() == pytest.approx([-math.log(2)] * 2)


def test_reductions() -> None:
    logits = torch.full((1, TARGET_SIZE, TARGET_SIZE), -20.0)
    target = torch.zeros(1, TARGET_SIZE, TARGET_SIZE, dtype=torch.bool)
    target[0, 0, :8] = True  # 8 of 1024 pixels are wrong by 20
    assert mask_log_prob(logits, target).item() == pytest.approx(-160 / 1024, rel=1e-5)
    assert mask_log_prob(logits, target, "sum").item() == pytest.approx(-160, rel=1e-5)
    for topk, wrong in ((4, 4), (8, 8), (500, 8), (5000, 8), (1.0, 8), (4 / 1024, 4), (1e-9, 1)):
        assert mask_log_prob(logits, target, "topk", topk=topk).item() == pytest.approx(-20 * wrong, rel=1e-5)
    assert mask_log_prob(logits, target, "sum", weight=0.5).item() == pytest.approx(-80, rel=1e-5)


def test_all_frames_of_a_mask_count_together() -> None:
    logits, then = noise(2, 3, 20, 24), noise(2, 3, 20, 24, seed=1)
    target = binarise_rollout_mask(then)
    single = torch.stack([mask_log_prob(logits[:, f], target[:, f], "sum") for f in range(3)])
    assert mask_log_prob(logits, target, "sum").tolist() == pytest.approx(single.sum(0).tolist(), rel=1e-5)
    assert mask_log_prob(logits, target).tolist() == pytest.approx((single.sum(0) / 3 / 1024).tolist(), rel=1e-5)


def test_batched_equals_one_at_a_time_and_none_is_empty() -> None:
    logits, target = noise(4, 24, 40), binarise_rollout_mask(noise(4, 24, 40, seed=1))
    single = torch.cat([mask_log_prob(logits[i : i + 1], target[i : i + 1]) for i in range(4)])
    assert torch.allclose(mask_log_prob(logits, target), single, atol=1e-6)
    empty = torch.zeros(0, 24, 40)
    assert mask_log_prob(empty, binarise_rollout_mask(empty)).shape == (0,)


def test_bfloat16_logits_are_compared_in_float32() -> None:
    logits = noise(1, 16, 16).bfloat16()
    assert mask_log_prob(logits, binarise_rollout_mask(logits)).dtype == torch.float32


@pytest.mark.parametrize("reduction", ["mean", "sum", "topk"])
def test_gradient_reaches_the_mask_logits(reduction: str) -> None:
    """Finite differences, at a size that is enlarged to 32 x 32."""
    logits = noise(2, 5, 7, dtype=torch.float64).requires_grad_()
    target = binarise_rollout_mask(noise(2, 5, 7, seed=1))

    def total(x: torch.Tensor) -> torch.Tensor:
        return mask_log_prob(x, target, reduction, topk=0.3)  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(total, (logits,), eps=1e-6, atol=1e-6)
    (gradient,) = torch.autograd.grad(total(logits).sum(), logits)
    assert gradient.abs().sum() > 0


def test_calibrate_adds_at_the_positions_and_passes_gradients() -> None:
    log_probs = noise(3, 6).requires_grad_()
    masks = [torch.tensor([-1.0, -2.0], requires_grad=True), torch.zeros(0), torch.tensor([-3.0])]
    out = calibrate(log_probs, masks, [[1, 4], [], torch.tensor([5])])
    added = (out - log_probs).detach()
    assert added.nonzero().tolist() == [[0, 1], [0, 4], [2, 5]]
    assert added[added != 0].tolist() == pytest.approx([-1, -2, -3], abs=1e-5)
    torch.autograd.backward(out.pow(2).sum())
    assert masks[0].grad is not None and log_probs.grad is not None
    assert torch.equal(masks[0].grad, log_probs.grad[0, [1, 4]])


def test_first_step_ratio_is_exactly_one() -> None:
    """Old and new log-probs calibrated by the same functions cancel to the last bit."""
    log_probs, logits = noise(1, 5), noise(2, 16, 16)
    target = binarise_rollout_mask(logits)
    new = calibrate(log_probs, [mask_log_prob(logits, target)], [[0, 3]])
    old = calibrate(log_probs.clone(), [mask_log_prob(logits.clone(), target)], [[0, 3]])
    assert torch.equal((new - old).exp(), torch.ones(1, 5))


def test_count_mismatch_names_the_sequence_even_if_totals_agree() -> None:
    masks = [torch.zeros(2), torch.zeros(1)]
    with pytest.raises(SegCountMismatchError, match=r"sequence 0: 2 masks for 1 \[SEG\] tokens") as error:
        calibrate(torch.zeros(2, 4), masks, [[1], [2, 3]])
    assert (error.value.masks, error.value.tokens) == (2, 1)
    with pytest.raises(ProtocolError, match="2 sequences of log-probs, but mask log-probs for 1"):
        calibrate(torch.zeros(2, 4), masks[:1], [[1, 2]])


@pytest.mark.parametrize(("positions", "message"), [([0, 9], "exceed 0..3"), ([-1, 2], "exceed"), ([2, 2], "twice")])
def test_wrong_positions(positions: list[int], message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        calibrate_packed(torch.zeros(4), torch.zeros(2), torch.tensor(positions))


def test_shapes_and_settings_that_do_not_fit() -> None:
    target = binarise_rollout_mask(torch.zeros(2, 8, 8))
    with pytest.raises(ProtocolError, match="expected one 32 x 32 mask for each"):
        mask_log_prob(torch.zeros(3, 8, 8), target)
    with pytest.raises(ProtocolError, match=r"\(8, 8\)"):
        binarise_rollout_mask(torch.zeros(8, 8))
    with pytest.raises(ValueError, match="'max' is unknown"):
        mask_log_prob(torch.zeros(2, 8, 8), target, "max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="topk is 0"):
        mask_log_prob(torch.zeros(2, 8, 8), target, "topk", topk=0)
