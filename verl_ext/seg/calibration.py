"""SEG-aware logit calibration (VideoSEG-O3, SPEC 2.3): the mask joins the log-probability of its ``[SEG]`` token.

Shape legend: N ``[SEG]`` tokens, F frames of one mask (absent for a single keyframe), h x w mask logits of the
segmenter, S = 32 the side at which masks are compared; B sequences of L tokens.

With more than one update per rollout the old log-probs are calibrated by the very same functions, with the rollout
mask on both sides, so that the importance ratio starts at exactly 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from rollout.errors import ProtocolError

TARGET_SIZE = 32
"""Both masks are resized to 32 x 32 before they are compared."""

LOGIT_THRESHOLDS = {"intended": 0.0, "released": 0.5}
"""By variant: the released code binarises logits at 0.5, as if they were probabilities."""

Reduction = Literal["mean", "sum", "topk"]


class SegCountMismatchError(ProtocolError):
    """A sequence has another number of masks than of ``[SEG]`` tokens: one of them would train the wrong token."""

    def __init__(self, where: str, masks: int, tokens: int) -> None:
        super().__init__(
            f"{where}: {masks} masks for {tokens} [SEG] tokens; each [SEG] of the response needs its own "
            "(0 for a turn whose mask is missing)"
        )
        self.masks, self.tokens = masks, tokens


def _resize(logits: Tensor) -> Tensor:
    """(…, h, w) -> (…, 32, 32), bilinear without aligned corners, differentiable; float32, or float64 if given so."""
    if logits.dim() < 3:
        raise ProtocolError(f"mask logits have shape {tuple(logits.shape)}; expected (N, h, w) or (N, F, h, w)")
    lead, (h, w) = logits.shape[:-2], logits.shape[-2:]
    wide = logits if logits.dtype == torch.float64 else logits.float()
    flat = wide.reshape(lead.numel(), 1, h, w)
    small = F.interpolate(flat, size=(TARGET_SIZE, TARGET_SIZE), mode="bilinear", align_corners=False)
    return small.reshape(*lead, TARGET_SIZE, TARGET_SIZE)


@torch.no_grad()
def binarise_rollout_mask(logits: Tensor, threshold: float | str = "intended") -> Tensor:
    """(N, h, w) or (N, F, h, w) rollout logits -> bool (…, 32, 32): the mask that was "sampled". No gradient.

    threshold: a logit, or a variant's name (``LOGIT_THRESHOLDS``). Raises ValueError for an unknown name.
    """
    if isinstance(threshold, str):
        if threshold not in LOGIT_THRESHOLDS:
            raise ValueError(f"threshold {threshold!r} is unknown; use a logit or one of {list(LOGIT_THRESHOLDS)}")
        threshold = LOGIT_THRESHOLDS[threshold]
    return _resize(logits) > threshold


def mask_log_prob(
    forward_logits: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    topk: float = 1.0,
    weight: float = 1.0,
) -> Tensor:
    """(N,) float32: how likely the current mask head makes the rollout's mask; ``weight`` x -BCE, reduced.

    forward_logits: (N, h, w), or (N, F, h, w) for the form over all frames; target: bool (…, 32, 32) from
    ``binarise_rollout_mask``. ``mean``: over all pixels (the published form); ``sum``: over all pixels; ``topk``:
    the sum over the hardest pixels, ``topk`` of them: a share if it is at most 1, else their number.
    Raises ProtocolError for shapes that do not fit, ValueError for an unknown reduction or ``topk`` <= 0.
    """
    if target.shape != (*forward_logits.shape[:-2], TARGET_SIZE, TARGET_SIZE):
        raise ProtocolError(
            f"rollout masks are {tuple(target.shape)}, current mask logits {tuple(forward_logits.shape)}; "
            f"expected one {TARGET_SIZE} x {TARGET_SIZE} mask for each"
        )
    small = _resize(forward_logits)
    log_p = -F.binary_cross_entropy_with_logits(small, target.to(small.dtype), reduction="none").flatten(1)
    if reduction == "mean":
        return weight * log_p.mean(dim=1)
    if reduction == "sum":
        return weight * log_p.sum(dim=1)
    if reduction != "topk":
        raise ValueError(f"mask log-prob reduction {reduction!r} is unknown; use 'mean', 'sum' or 'topk'")
    if not topk > 0:
        raise ValueError(f"topk is {topk}; give a share of the pixels in (0, 1] or their number")
    pixels = log_p.shape[1]
    count = min(pixels, max(1, round(topk * pixels if topk <= 1 else topk)))
    return weight * log_p.topk(count, dim=1, largest=False).values.sum(dim=1)


def calibrate_packed(log_probs: Tensor, mask_logp: Tensor, positions: Tensor, where: str = "batch") -> Tensor:
    """(K,) log-probs + mask_logp (M,) at positions (M,) of them; differentiable in both, inputs unchanged.

    ``positions`` index the log-prob *of* each ``[SEG]`` token, not the token that it is predicted from.
    Raises SegCountMismatchError, or ProtocolError for a position outside 0..K-1 or given twice.
    """
    if mask_logp.shape != positions.shape:
        raise SegCountMismatchError(where, mask_logp.numel(), positions.numel())
    if positions.numel() == 0:
        return log_probs
    tokens = positions.tolist()
    if min(tokens) < 0 or max(tokens) >= log_probs.shape[0]:
        raise ProtocolError(f"{where}: [SEG] positions {tokens} exceed 0..{log_probs.shape[0] - 1}")
    if len(set(tokens)) != len(tokens):
        raise ProtocolError(f"{where}: [SEG] positions {tokens} name a token twice")
    return log_probs.index_add(0, positions, mask_logp.to(log_probs.dtype))


def calibrate(log_probs: Tensor, mask_logp: Sequence[Tensor], positions: Sequence[Sequence[int] | Tensor]) -> Tensor:
    """(B, L) log-probs, each ``[SEG]``'s raised by its mask log-prob; differentiable in both.

    mask_logp[b]: (n_b,); positions[b]: the n_b token positions that they belong to, in order. Counts must agree for
    every sequence, also where the totals happen to. Raises SegCountMismatchError naming the sequence.
    """
    if not len(mask_logp) == len(positions) == log_probs.shape[0]:
        raise ProtocolError(
            f"{log_probs.shape[0]} sequences of log-probs, but mask log-probs for {len(mask_logp)} and [SEG] positions "
            f"for {len(positions)}; give one entry per sequence, empty where it has no [SEG]"
        )
    rows = []
    for b, (row, logp, tokens) in enumerate(zip(log_probs, mask_logp, positions, strict=True)):
        index = torch.as_tensor(tokens, dtype=torch.long, device=row.device)
        rows.append(calibrate_packed(row, logp.to(row.device), index, f"sequence {b}"))
    return torch.stack(rows) if rows else log_probs
