"""``[SEG]`` states as continuous actions: a Gaussian draw around the projected state (``calibration.form: state``).

The rollout's own log-prob pass makes the states, so there the noise is drawn; the pool scores masks of what was drawn,
and the token's log-prob gains log N(drawn | state, sigma²) on both sides of the importance ratio. Both sides compute it
by the same function from the stored draw, so that the ratio starts at exactly 1.

Shape legend: N ``[SEG]`` tokens, C width of a state.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from verl_ext.seg.batch import SegBatch, rows_with_dummy, rows_without_dummy

DRAW_STATES = "draw_states"
"""In a batch's settings: this is the rollout's own log-prob pass, in which noise is drawn."""


def state_noise(count: int, width: int, sigma: float, generator: torch.Generator) -> Tensor:
    """(count, width) float32 on the generator's device: sigma x standard normal noise."""
    return sigma * torch.randn(count, width, generator=generator, device=generator.device, dtype=torch.float32)


def state_log_prob(states: Tensor, drawn: Tensor, sigma: float) -> Tensor:
    """(N,) float32 log-density of ``drawn`` (N, C) under N(states, sigma² I); differentiable in the states."""
    width = states.shape[-1]
    distance = ((drawn - states.float()) ** 2).sum(dim=-1)
    return -distance / (2 * sigma**2) - width * (math.log(sigma) + 0.5 * math.log(2 * math.pi))


def state_terms(
    seg: SegBatch, states: Tensor, old_drawn: Tensor | None, sigma: float, noise: Tensor | None
) -> dict[str, Tensor]:
    """What an engine returns of a micro-batch, under the names of the published form.

    ``mask_log_prob`` (1 + n), jagged: the draw's log-density. Where ``old_drawn`` is None also ``mask_target``
    (1 + n) * C, the draw, and ``seg_states``, the same: what is scored.

    Args:
        states: (N, C) of the current policy.
        old_drawn: the ``mask_target`` of the rollout's own pass; None in that pass.
        noise: (N, C) that the rollout's pass drew; None where it draws none (held-out dialogues).
    """
    out: dict[str, Tensor] = {}
    width = states.shape[-1]
    if old_drawn is not None:
        drawn = torch.cat(list(rows_without_dummy(old_drawn, width))).to(states.device)
    else:
        drawn = states.detach().float() if noise is None else states.detach().float() + noise
        out["seg_states"] = out["mask_target"] = rows_with_dummy(drawn, seg.counts)
    out["mask_log_prob"] = rows_with_dummy(state_log_prob(states, drawn, sigma), seg.counts)
    return out
