"""``videoseg_o3_seg_calibration.json``: mask log-probs, calibrated loss and its gradients, released threshold."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from tests.golden_checks.report import Case, Check

if TYPE_CHECKING:
    from torch import Tensor


def _logits(mask: dict[str, Any] | None) -> Tensor | None:
    import torch

    if mask is None:
        return None
    return torch.tensor(mask["eighths"], dtype=torch.float32).reshape(mask["shape"]) / 8


def compute(case: dict[str, Any], threshold: float | str = "released") -> dict[str, Any]:
    """Our values, under the golden names."""
    import torch

    from verl_ext.seg.calibration import binarise_rollout_mask, mask_log_prob
    from verl_ext.seg.losses import grpo_objective, mask_bce, mask_dice

    forward = [[_logits(mask) for mask in turns] for turns in case["forward_mask_logits"]]
    for mask in (mask for turns in forward for mask in turns if mask is not None):
        mask.requires_grad_()
    mask_logp = []
    for now, then in zip(forward, case["rollout_mask_logits"], strict=True):
        turns = [
            mask_log_prob(f, binarise_rollout_mask(r, threshold))
            for f, r in zip(now, map(_logits, then), strict=True)
            if f is not None and r is not None
        ]
        mask_logp.append(torch.cat(turns) if turns else torch.zeros(0))
    log_probs = torch.tensor(case["log_probs"], requires_grad=True)
    terms = grpo_objective(
        log_probs,
        torch.tensor(case["ref_log_probs"]),
        torch.tensor(case["advantages"]),
        torch.tensor(case["response_mask"]),
        mask_logp,
        case["seg_token_index"],
        kl_coef=case["kl_coef"],
    )
    terms.loss.backward()  # type: ignore[no-untyped-call]
    aux = torch.tensor(case["aux_pred_logits_eighths"]).reshape(1, 16, 16) / 8
    truth = torch.tensor(case["aux_gt"]).reshape(1, 16, 16)
    assert log_probs.grad is not None
    return {
        "mask_log_probs": [row.tolist() for row in mask_logp],
        "calibrated_log_probs": terms.calibrated.tolist(),
        "loss": terms.loss.item(),
        "grad_log_probs": log_probs.grad.tolist(),
        "grad_forward_mask_abs_sum": [[_grad_size(mask) for mask in turns] for turns in forward],
        "aux_bce": mask_bce(aux, truth).item(),
        "aux_dice": mask_dice(aux, truth).item(),
    }


def _grad_size(mask: Tensor | None) -> float | None:
    if mask is None:
        return None
    return 0.0 if mask.grad is None else float(mask.grad.abs().sum())


def _cases(data: Any) -> list[Case]:
    import verl_ext.seg.calibration
    import verl_ext.seg.losses  # noqa: F401 - says at once if the feature is missing

    return [Case(f"case {i}", case["expected"], partial(compute, case)) for i, case in enumerate(data)]


CHECK = Check("videoseg_o3_seg_calibration.json", 1e-5, _cases)
