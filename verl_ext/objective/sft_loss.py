"""The supervised objective: language modelling plus mask cross-entropy and dice (SPEC 2.6, stage 1 and 2)."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict
from verl.utils.metric import AggregationType, Metric
from verl.workers.utils.losses import sft_loss as lm_loss


def supervised_loss(
    config: Any,
    model_output: dict[str, torch.Tensor],
    data: TensorDict,
    dp_group: Any = None,
    *,
    lm: float = 1.0,
    mask_ce: float = 2.0,
    dice: float = 0.5,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """verl's loss signature; the mask terms are means over each conversation's keyframe and video masks.

    ``lm``, ``mask_ce`` and ``dice`` are the coefficients; the metrics of these names are without them.
    """
    text, metrics = lm_loss(config=config, model_output=model_output, data=data, dp_group=dp_group)
    metrics = dict(metrics)
    metrics["lm"] = _part(text)
    loss = lm * text
    if "aux_bce" in model_output:
        share = data["dp_size"] / data["global_batch_size"]
        bce = model_output["aux_bce"].mean(dim=1).sum() * share
        overlap = model_output["aux_dice"].mean(dim=1).sum() * share
        loss = loss + mask_ce * bce + dice * overlap
        metrics["mask_ce"], metrics["dice"] = _part(bce), _part(overlap)
    return loss, metrics


def _part(value: torch.Tensor) -> Metric:
    """Sums over micro-batches, averaged over processes, make the batch's mean."""
    return Metric(value=value.detach(), aggregation=AggregationType.SUM)
