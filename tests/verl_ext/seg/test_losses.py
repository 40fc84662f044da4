"""The reference objective: invariants, and numbers worked by hand. Golden values: tests/test_golden.py."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from rollout.errors import ProtocolError
from verl_ext.seg.calibration import binarise_rollout_mask, calibrate, mask_log_prob
from verl_ext.seg.losses import (
    group_advantages,
    grpo_objective,
    k3_kl,
    mask_bce,
    mask_dice,
    mask_loss,
    sequence_mean,
)

LOG_PROBS = torch.tensor([[-1.0, -2.0, -0.5, -3.0], [-0.2, -0.4, -0.6, -0.8]])
MASK = torch.tensor([[0, 1, 1, 1], [1, 1, 0, 0]])
NO_MASKS: Any = ([torch.zeros(0), torch.zeros(0)], [[], []])


def objective(log_probs: torch.Tensor, ref: torch.Tensor, advantages: list[float], **changes: Any) -> Any:
    return grpo_objective(log_probs, ref, torch.tensor(advantages), MASK, *NO_MASKS, **changes)


def test_advantages_are_normalised_within_their_group() -> None:
    out = group_advantages(torch.tensor([1.0, 10.0, 3.0, 10.0, 7.0]), torch.tensor([0, 1, 0, 1, 2]))
    assert out.tolist() == pytest.approx([-1 / (math.sqrt(2) + 1e-4), 0, 1 / (math.sqrt(2) + 1e-4), 0, 0])


def test_kl_to_itself_is_zero_and_never_negative() -> None:
    assert torch.equal(k3_kl(LOG_PROBS, LOG_PROBS), torch.zeros_like(LOG_PROBS))
    assert k3_kl(torch.tensor([0.0]), torch.tensor([math.log(2.0)])).item() == pytest.approx(1 - math.log(2))
    gaps = torch.linspace(-3, 3, 61)
    assert (k3_kl(torch.zeros(61), gaps) >= 0).all()


def test_sequence_mean_weighs_sequences_equally_and_ignores_masked_nan() -> None:
    values = torch.tensor([[1.0, 3.0, float("nan")], [8.0, 0.0, 0.0]])
    assert sequence_mean(values, torch.tensor([[1, 1, 0], [1, 0, 0]])).item() == pytest.approx((2 + 8) / 2)
    assert sequence_mean(values, torch.tensor([[1, 1, 0], [0, 0, 0]])).item() == pytest.approx((2 + 0) / 2)


def test_on_policy_loss_is_minus_the_mean_advantage() -> None:
    terms = objective(LOG_PROBS, LOG_PROBS, [1.5, -0.5])
    assert terms.loss.item() == pytest.approx(-0.5)
    assert torch.equal(terms.ratio, torch.ones(2, 4))
    assert terms.kl.item() == 0


def test_off_policy_ratio_kl_and_coefficients_add_up() -> None:
    ref, old = LOG_PROBS + 0.3, LOG_PROBS - 0.1
    terms = objective(LOG_PROBS, ref, [1.0, 1.0], old_calibrated=old, kl_coef=0.5)
    k3 = math.exp(0.3) - 0.3 - 1
    assert terms.loss.item() == pytest.approx(-math.exp(0.1) + 0.5 * k3, rel=1e-5)


def test_policy_term_is_calibrated_and_kl_is_not() -> None:
    logits = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = binarise_rollout_mask(-logits.detach())
    ref = LOG_PROBS + 0.3
    log_probs = LOG_PROBS.clone().requires_grad_()

    def terms(positions: list[list[int]], kl_coef: float) -> Any:
        masks = [mask_log_prob(logits, target), torch.zeros(0)]
        return grpo_objective(log_probs, ref, torch.tensor([2.0, 1.0]), MASK, masks, positions, kl_coef=kl_coef)

    (with_kl,) = torch.autograd.grad(terms([[2], []], 10.0).loss, logits)
    (without,) = torch.autograd.grad(terms([[2], []], 0.0).loss, logits)
    assert with_kl.abs().sum() > 0 and torch.equal(with_kl, without)
    assert terms([[2], []], 1.0).kl.item() == pytest.approx(math.exp(0.3) - 1.3, rel=1e-4)
    # the advantage's sign decides whether the sampled mask becomes likelier: here it does
    assert mask_log_prob((logits - without).detach(), target) > mask_log_prob(logits, target)
    # a [SEG] outside the response moves nothing
    (outside,) = torch.autograd.grad(terms([[0], []], 0.0).loss, logits)
    assert outside.abs().sum() == 0


def test_old_log_probs_calibrated_alike_start_at_ratio_one() -> None:
    logits = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(1))
    masks = [mask_log_prob(logits, binarise_rollout_mask(logits)), torch.zeros(0)]
    old = calibrate(LOG_PROBS, masks, [[3], []])
    terms = grpo_objective(LOG_PROBS, LOG_PROBS, torch.tensor([1.0, 1.0]), MASK, masks, [[3], []], old_calibrated=old)
    assert torch.equal(terms.ratio, torch.ones(2, 4))


def test_mask_losses_by_hand() -> None:
    logits = torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[30.0, 30.0], [-30.0, -30.0]]])
    truth = torch.tensor([[[1, 1], [0, 0]], [[1, 1], [0, 0]]])
    assert mask_bce(logits, truth).tolist() == pytest.approx([math.log(2), 0], abs=1e-6)
    assert mask_dice(logits, truth).tolist() == pytest.approx([1 - (2 * 1 + 1) / (2 + 2 + 1), 0], abs=1e-6)
    assert mask_loss(logits, truth).item() == pytest.approx((math.log(2) + 0.4) / 2, rel=1e-5)
    assert mask_dice(torch.full((1, 2, 2), -30.0), torch.zeros(1, 2, 2)).item() == pytest.approx(0, abs=1e-6)


def test_auxiliary_losses_join_with_their_coefficient() -> None:
    video = (torch.zeros(3, 4, 4), torch.ones(3, 4, 4))
    keyframe = (torch.zeros(1, 4, 4), torch.zeros(1, 4, 4))
    plain = objective(LOG_PROBS, LOG_PROBS, [1.0, 1.0])
    both = objective(LOG_PROBS, LOG_PROBS, [1.0, 1.0], video=video, keyframe=keyframe)
    aux = mask_loss(*video) + mask_loss(*keyframe)
    assert both.aux.item() == pytest.approx(aux.item())
    assert (both.loss - plain.loss).item() == pytest.approx(0.2 * aux.item(), rel=1e-5)


def test_no_masks_is_zero_but_still_in_the_graph() -> None:
    logits = torch.zeros(0, 4, 4, requires_grad=True)
    loss = mask_loss(logits, torch.zeros(0, 4, 4))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0 and logits.grad is not None


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ProtocolError, match=r"\(2, 4, 4\), ground truth \(2, 8, 8\)"):
        mask_loss(torch.zeros(2, 4, 4), torch.zeros(2, 8, 8))
