"""The RL objective on one micro-batch (VideoSEG-O3; SPEC 2.3 and 2.4), around verl's own policy loss.

``mean_b( sum_t mask * ( -ratio * A + beta * k3 ) / sum_t mask ) + 0.2 * (L_video + L_keyframe)``

The ratio is between *calibrated* log-probs (text + mask) on both sides, the KL term between uncalibrated ones. Each L
is the mean over all its masks of the mini-batch, whichever process and micro-batch they are in. k3 is verl's, with a
gradient also where verl cuts it.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from tensordict import TensorDict
from verl.trainer.ppo.core_algos import agg_loss, kl_penalty
from verl.utils.metric import AggregationType, Metric
from verl.workers.utils.losses import ppo_loss
from verl.workers.utils.padding import no_padding_2_padding

from verl_ext.seg.batch import row_lengths, rows_without_dummy
from verl_ext.seg.calibration import SegCountMismatchError, calibrate_packed
from verl_ext.seg.episodes import micro_batch_episodes

K3_MOST = 10.0
"""verl (0.9.1) lets a token's divergence grow no further."""


def rl_loss(
    config: Any,
    model_output: dict[str, torch.Tensor],
    data: TensorDict,
    dp_group: Any = None,
    *,
    calibrate: bool = True,
    aux_coef: float = 0.2,
    only: Literal["text", "calibration", "auxiliary"] | None = None,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """verl's loss signature.

    Args:
        config: verl's ActorConfig (clip ratios, KL coefficient, aggregation).
        model_output: ``log_probs`` (B, L) jagged; of a ``[SEG]`` policy also ``mask_log_prob``, and ``aux_bce``,
            ``aux_dice``, ``aux_kept``, ``aux_masks`` (B, 2).
        data: the micro-batch with ``old_log_probs``, ``advantages``, ``ref_log_prob``, ``old_mask_log_prob``, and how
            many ``video_masks`` and ``keyframe_masks`` the whole mini-batch has.
        only: one term's gradient alone: of the policy term through the text's log-probs or through what calibration
            adds to them, or of the auxiliary losses.

    Raises:
        SegCountMismatchError: a sequence has another number of mask log-probs than of ``[SEG]`` tokens.
    """
    has_head = "mask_log_prob" in model_output
    if only is not None:
        model_output, aux_coef = _one_term(model_output, only, aux_coef)
    text_log_probs = model_output["log_probs"]
    policy_data = data
    output = model_output
    if has_head and calibrate:
        output, policy_data = _calibrated(model_output, data)
    loss, metrics = ppo_loss(config=_without_kl(config), model_output=output, data=policy_data, dp_group=dp_group)

    if config.use_kl_loss and only is None:
        log_prob = no_padding_2_padding(text_log_probs, data)
        dense = data.select("response_mask", "ref_log_prob").to_padded_tensor()
        kl = divergence(log_prob, dense["ref_log_prob"])
        mask = dense["response_mask"].to(bool)
        kl_loss = agg_loss(kl, mask, loss_agg_mode=config.loss_agg_mode, **config.global_batch_info)
        loss = loss + config.kl_loss_coef * kl_loss
        metrics["kl_loss"] = Metric(value=kl_loss.detach(), aggregation=AggregationType.SUM)

    if has_head:
        sums = ((model_output["aux_bce"] + model_output["aux_dice"]) * model_output["aux_masks"]).sum(dim=0)
        sums = sums * data["dp_size"]  # gradients are averaged over processes
        video, keyframe = sums[0] / max(1, data["video_masks"]), sums[1] / max(1, data["keyframe_masks"])
        loss = loss + aux_coef * (video + keyframe)
        metrics["aux/video"] = Metric(value=video.detach(), aggregation=AggregationType.SUM)
        metrics["aux/keyframe"] = Metric(value=keyframe.detach(), aggregation=AggregationType.SUM)
        kept = (model_output["aux_kept"] * model_output["aux_masks"]).sum() * data["dp_size"]
        masks = max(1, data["video_masks"] + data["keyframe_masks"])
        metrics["aux/kept"] = Metric(value=kept.detach() / masks, aggregation=AggregationType.SUM)
        # sums, of which every micro-batch and process has one, or verl could not add them up; the worker divides them
        values = torch.cat([r.reshape(-1) for r in rows_without_dummy(model_output["mask_log_prob"])]).detach()
        for name, value in {"seg/tokens": float(values.numel()), "seg/mask_log_prob_sum": float(values.sum())}.items():
            metrics[name] = Metric(value=value * data["dp_size"], aggregation=AggregationType.SUM)
    return loss, metrics


def _one_term(
    model_output: dict[str, torch.Tensor], only: str, aux_coef: float
) -> tuple[dict[str, torch.Tensor], float]:
    """The output with the other terms' gradients cut off, and the auxiliary coefficient that goes with it."""
    cut = {
        "text": ("mask_log_prob",),
        "calibration": ("log_probs",),
        "auxiliary": ("log_probs", "mask_log_prob"),
    }[only]
    out = {name: value.detach() if name in cut else value for name, value in model_output.items()}
    return out, aux_coef if only == "auxiliary" else 0.0


def divergence(log_probs: torch.Tensor, ref_log_probs: torch.Tensor) -> torch.Tensor:
    """Elementwise k3 of policy and reference by verl, which cuts it at ``K3_MOST``.

    Up to there its gradient is the published one, 1 - p_ref / p. A cut has none, so that the tokens which have gone
    furthest (13.6 times rarer than in the reference, or e^11 times more frequent) would not be called back at all. They
    have that of verl's ``low_var_kl+``, log(p / p_ref): it agrees with k3's to first order, is an unbiased estimate of
    the divergence's own, and stays finite where the uncut k3's grows like the ratio.
    """
    published = kl_penalty(log_probs, ref_log_probs, "low_var_kl")
    beyond = kl_penalty(log_probs, ref_log_probs, "low_var_kl+")
    return torch.where(published < K3_MOST, published, beyond)


def _calibrated(model_output: dict[str, torch.Tensor], data: TensorDict) -> tuple[dict[str, torch.Tensor], TensorDict]:
    """Add the mask log-probs at the ``[SEG]`` positions, to the current and to the old log-probs alike."""
    log_probs: Any = model_output["log_probs"]
    old: Any = data["old_log_probs"]
    _, episodes = micro_batch_episodes(data)
    tokens = [[p for turn in episode["turns"] for p in turn["seg_positions"]] for episode in episodes]
    prompts = row_lengths(data["prompts"]).tolist()
    new_index, old_index = [], []
    starts = (log_probs.offsets().tolist(), old.offsets().tolist())  # all at once: each look waits for the device
    for b, positions in enumerate(tokens):
        first_new, first_old = starts[0][b], starts[1][b]
        new_index += [first_new + p - 1 for p in positions]  # the log-prob of token p is scored at p - 1
        old_index += [first_old + p - prompts[b] for p in positions]
    current = _one_per_token(model_output["mask_log_prob"], tokens, "now")
    before = _one_per_token(data["old_mask_log_prob"], tokens, "at rollout")
    device = log_probs.device
    out = dict(model_output)
    out["log_probs"] = _add(log_probs, torch.tensor(new_index, device=device, dtype=torch.long), current, "now")
    shallow = data.clone(recurse=False)
    shallow["old_log_probs"] = _add(
        old, torch.tensor(old_index, device=old.device, dtype=torch.long), before.to(old.device), "at rollout"
    )
    return out, shallow


def _one_per_token(nested: torch.Tensor, tokens: list[list[int]], when: str) -> torch.Tensor:
    """(N,) mask log-probs in order; raises SegCountMismatchError naming the first sequence that has too many or few."""
    rows = [row.reshape(-1) for row in rows_without_dummy(nested)]
    for b, (row, positions) in enumerate(zip(rows, tokens, strict=True)):
        if len(row) != len(positions):
            raise SegCountMismatchError(f"sequence {b}, {when}", len(row), len(positions))
    return torch.cat(rows)


def _add(nested: Any, index: torch.Tensor, values: torch.Tensor, when: str) -> torch.Tensor:
    lengths = row_lengths(nested)
    summed = calibrate_packed(nested.values(), values, index, f"micro-batch, {when}")
    # without min and max, to_padded_tensor() would pad every row to the total length
    return torch.nested.nested_tensor_from_jagged(
        summed, nested.offsets(), min_seqlen=int(lengths.min()), max_seqlen=int(lengths.max())
    )


def _without_kl(config: Any) -> Any:
    """A shallow copy for verl's loss: the KL term is ours, on uncalibrated log-probs."""
    out = copy.copy(config)
    object.__setattr__(out, "use_kl_loss", False)
    return out
