"""``[SEG]`` states as continuous actions: the density, its gradient by hand, and a ratio that starts at exactly 1."""

from __future__ import annotations

import math

import pytest
import torch

from verl_ext.seg.batch import SegBatch, rows_without_dummy
from verl_ext.seg.drawn_states import state_log_prob, state_noise, state_terms

SIGMA = 0.3
COUNTS = SegBatch(positions=[[4, 9], [], [3]])


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def states(seed: int = 1) -> torch.Tensor:
    return torch.randn(3, 16, generator=noise(seed))


def test_density_is_torchs_own() -> None:
    mean, drawn = states(), states(2)
    expected = torch.distributions.Normal(mean, SIGMA).log_prob(drawn).sum(-1)
    assert torch.allclose(state_log_prob(mean, drawn, SIGMA), expected, rtol=1e-5)


def test_noise_has_the_spread_asked_for() -> None:
    drawn = state_noise(400, 64, SIGMA, noise())
    assert float(drawn.std()) == pytest.approx(SIGMA, rel=0.02) and abs(float(drawn.mean())) < 0.01
    assert torch.equal(drawn, state_noise(400, 64, SIGMA, noise()))
    assert not torch.equal(drawn, state_noise(400, 64, SIGMA, noise(1)))


def test_the_first_ratio_is_exactly_one() -> None:
    mean = states()
    old = state_terms(COUNTS, mean, None, SIGMA, state_noise(3, 16, SIGMA, noise()))
    new = state_terms(COUNTS, mean, old["mask_target"], SIGMA, None)
    assert not torch.equal(torch.cat(list(rows_without_dummy(old["seg_states"], 16))), mean), "noise was drawn"
    ratio = (new["mask_log_prob"].values() - old["mask_log_prob"].values()).exp()
    assert torch.equal(ratio, torch.ones_like(ratio))
    assert set(new) == {"mask_log_prob"} and old["seg_states"] is old["mask_target"]
    assert [len(r) for r in rows_without_dummy(old["mask_log_prob"])] == [2, 0, 1]


def test_without_noise_nothing_is_drawn() -> None:
    mean = states()
    held_out = state_terms(COUNTS, mean, None, SIGMA, None)
    assert torch.equal(torch.cat(list(rows_without_dummy(held_out["seg_states"], 16))), mean)


def test_gradient_equals_the_one_worked_out_by_hand() -> None:
    """Through a linear projection: d/dW of sum_n -A_n ratio_n = -sum_n A_n ratio_n (drawn_n - W h_n) h_n^T / sigma²."""
    hidden = torch.randn(3, 8, generator=noise(3), dtype=torch.float64)
    weight = torch.randn(16, 8, generator=noise(4), dtype=torch.float64).requires_grad_()
    advantages = torch.tensor([1.5, -0.5, 0.25], dtype=torch.float64)
    with torch.no_grad():
        old = weight + 0.01 * torch.randn(16, 8, generator=noise(5), dtype=torch.float64)
        drawn = hidden @ old.T + SIGMA * torch.randn(3, 16, generator=noise(6), dtype=torch.float64)

    def density(w: torch.Tensor) -> torch.Tensor:  # in float64, unlike the engine's states
        return -((drawn - hidden @ w.T) ** 2).sum(-1) / (2 * SIGMA**2) - 16 * math.log(SIGMA * math.sqrt(2 * math.pi))

    before = density(old)
    ratio = (state_log_prob_64(hidden @ weight.T, drawn) - before).exp()
    (-(ratio * advantages).sum()).backward()
    with torch.no_grad():
        mean = hidden @ weight.T
        factor = (advantages * (density(weight) - before).exp())[:, None] * (drawn - mean) / SIGMA**2
        by_hand = -factor.T @ hidden
    assert weight.grad is not None and torch.allclose(weight.grad, by_hand, rtol=1e-4)


def state_log_prob_64(mean: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    return state_log_prob(mean, drawn, SIGMA).double()


def test_the_draw_pulls_the_state_where_the_advantage_is_good() -> None:
    mean = states().requires_grad_()
    drawn = mean.detach() + state_noise(3, 16, SIGMA, noise(7))
    (-state_log_prob(mean, drawn, SIGMA) * torch.tensor([1.0, -1.0, 0.0])).sum().backward()
    assert mean.grad is not None
    step = -mean.grad
    towards = (step * (drawn - mean.detach())).sum(-1)
    assert towards[0] > 0 and towards[1] < 0 and towards[2] == 0
