"""The FSDP engine: verl's own, plus the segmentation head and what it returns.

Registered for ``cpu`` and, through the vendor key that wins over the stock entry, for ``cuda`` (DESIGN 5).
Outputs beside log-probs and entropy, per sequence and jagged, each row with one leading dummy entry:

seg_states       (1 + n) * C float32: projected ``[SEG]`` states
mask_log_prob    (1 + n) float32: how likely this policy's keyframe mask is under the rollout's (SPEC 2.3)
mask_target      (1 + n) * 1024 uint8: the binarised rollout mask; only where the batch does not carry one
aux_bce/aux_dice 2 float32 (dense): means over the sequence's video masks and over its keyframe masks (training only)
"""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import torch
import verl.workers.engine.fsdp.transformer_impl as fsdp_impl
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_name
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp import FSDPEngineWithLMHead

from rollout.types import Sample
from verl_ext.calibration import TARGET_SIZE, binarise_rollout_mask, mask_log_prob
from verl_ext.context import active_recipe
from verl_ext.episodes import micro_batch_episodes
from verl_ext.losses import mask_bce, mask_dice
from verl_ext.policy.checkpoint import attach_head_from, has_head
from verl_ext.policy.head import decoder_items, is_head_parameter
from verl_ext.position_ids import repair_position_ids
from verl_ext.seg_batch import (
    KEYFRAME,
    FrameCache,
    SegBatch,
    collect,
    ground_truth,
    rows_with_dummy,
    rows_without_dummy,
    token_mask,
)

TARGET_PIXELS = TARGET_SIZE * TARGET_SIZE


@EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device=["cpu"])
@EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device=["cuda"], vendor="nvidia")
class SegFSDPEngine(FSDPEngineWithLMHead):  # type: ignore[misc]
    """See the module's docstring."""

    _frames: FrameCache | None = None
    _pending: SegBatch | None = None

    # ---- building -----------------------------------------------------------------------------------------------

    def _build_module(self) -> torch.nn.Module:
        module = super()._build_module()
        folder = self.model_config.local_path
        self._recipe = active_recipe()
        # the reference policy is the language model alone (SPEC 2.2): the forward-only engine gets no head
        if has_head(folder) and not self.engine_config.forward_only:
            attach_head_from(module, folder, next(module.parameters()).dtype)
            self._frames = FrameCache(module.grounding_encoder.preprocess, self._recipe.pool.cache_frames)
            self._mask_size = (module.grounding_encoder.logit_size,) * 2
        else:
            from verl_ext.policy.modeling import SegPolicyForConditionalGeneration

            module.__class__ = SegPolicyForConditionalGeneration
        module.forbidden_token_ids = tuple(forbidden_token_ids(self.model_config.tokenizer))
        return module

    def _build_fsdp_module(self, module: torch.nn.Module) -> torch.nn.Module:
        if get_device_name() != "cpu":
            return super()._build_fsdp_module(module)
        # verl 0.9.1 puts the reference into pinned memory, which needs an accelerator
        with patch.object(fsdp_impl, "CPUOffloadPolicy", lambda pin_memory=True: None):
            wrapped = super()._build_fsdp_module(module)
        self._uses_fsdp2_cpu_offload_policy = False
        return wrapped

    def _build_optimizer(self, module: torch.nn.Module) -> torch.optim.Optimizer:
        """Three groups: language and vision model, projection, mask decoder, each with its own learning rate."""
        from verl.workers.config.optimizer import build_optimizer

        optim = self._recipe.optim
        rates = {
            "text_hidden_fcs.": optim.projection_lr if optim.projection_lr is not None else optim.lr,
            "grounding_encoder.": optim.decoder_lr if optim.decoder_lr is not None else optim.lr,
        }
        groups: dict[float, list[torch.nn.Parameter]] = {optim.lr: []}
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            rate = next((r for prefix, r in rates.items() if name.startswith(prefix)), optim.lr)
            groups.setdefault(rate, []).append(parameter)
        return build_optimizer([{"params": p, "lr": lr} for lr, p in groups.items() if p], self.optimizer_config)

    # ---- forward ------------------------------------------------------------------------------------------------

    def prepare_model_inputs(self, micro_batch: TensorDict) -> tuple[dict[str, Any], dict[str, Any]]:
        repair_position_ids(micro_batch)
        inputs, args = super().prepare_model_inputs(micro_batch)
        self._pending = None
        if self._frames is None:
            return inputs, args
        samples, episodes = micro_batch_episodes(micro_batch)
        seg = collect(samples, episodes, with_video_frames=wants_mask_losses(micro_batch))
        device = inputs["input_ids"].device
        lengths = micro_batch["input_ids"].offsets().diff().tolist()
        packed = tu.get_non_tensor_data(data=micro_batch, key="use_remove_padding", default=True)
        inputs["seg_mask"] = token_mask(seg, lengths, inputs["input_ids"].shape, packed).to(device)
        size = self._recipe_image_size()
        pixels = self._frames.get(seg.frames) if seg.frames else torch.zeros(1, 3, size, size)
        inputs["sam_pixels"] = pixels.to(device)
        inputs["pair_state"] = seg.column(0).to(device) if seg.pairs else torch.zeros(0, dtype=torch.long, device=device)
        inputs["pair_frame"] = seg.column(1).to(device) if seg.pairs else torch.zeros(0, dtype=torch.long, device=device)
        self._pending = seg
        return inputs, args

    def prepare_model_outputs(
        self, output: Any, output_args: dict[str, Any], micro_batch: TensorDict, logits_processor_func: Any
    ) -> dict[str, Any]:
        out: dict[str, Any] = super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)
        seg, self._pending = self._pending, None
        if seg is None:
            return out
        masks = output.mask_logits  # (M, h, w)
        key_rows = seg.keyframe_pairs().to(masks.device)
        if not torch.is_grad_enabled():
            out["seg_states"] = rows_with_dummy(output.seg_states, seg.counts)
        if "episode" not in micro_batch.keys():  # noqa: SIM118 - supervised batches have no rollout mask
            cal = self._recipe.objective.calibration
            if "old_mask_target" in micro_batch.keys():  # noqa: SIM118
                rows = list(rows_without_dummy(micro_batch["old_mask_target"], TARGET_PIXELS))
                target = torch.cat(rows).view(-1, TARGET_SIZE, TARGET_SIZE).to(masks.device)
            else:
                target = binarise_rollout_mask(masks[key_rows], cal.threshold_variant)
                out["mask_target"] = rows_with_dummy(target.to(torch.uint8), seg.counts)
            logp = mask_log_prob(masks[key_rows], target.bool(), reduction=cal.reduction, topk=cal.topk, weight=cal.weight)
            out["mask_log_prob"] = rows_with_dummy(logp, seg.counts)
        if wants_mask_losses(micro_batch):
            out["aux_bce"], out["aux_dice"] = self._mask_losses(seg, masks)
        return out

    def _mask_losses(self, seg: SegBatch, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 2) BCE and dice: mean over the sequence's video masks, and over its keyframe masks."""
        truth = ground_truth(seg, self._mask_size, union_mask).to(masks.device)
        bce, dice = mask_bce(masks, truth), mask_dice(masks, truth)
        kind, owner = seg.column(2).to(masks.device), seg.column(3).to(masks.device)
        slot = owner * 2 + (kind == KEYFRAME).long()
        size = 2 * len(seg.positions)
        count = torch.zeros(size, device=masks.device).index_add(0, slot, torch.ones_like(bce)).clamp(min=1)
        return tuple(
            (torch.zeros(size, device=masks.device).index_add(0, slot, x) / count).view(-1, 2) for x in (bce, dice)
        )  # type: ignore[return-value]

    def _recipe_image_size(self) -> int:
        module = getattr(self.module, "_fsdp_wrapped_module", self.module)
        return int(module.grounding_encoder.config.input_size)

    # ---- weights out --------------------------------------------------------------------------------------------

    def get_per_tensor_param(self, **kwargs: Any) -> tuple[Any, Any]:
        """What goes to vLLM: the language model only (it refuses names that it does not know)."""
        generator, peft = super().get_per_tensor_param(**kwargs)
        return ((n, t) for n, t in generator if not is_head_parameter(n)), peft

    def full_state(self) -> dict[str, torch.Tensor]:
        """Every parameter gathered on the CPU; a collective call, kept on rank 0 only."""
        generator, _ = super().get_per_tensor_param()
        keep = torch.distributed.get_rank() == 0
        state = {}
        for name, tensor in generator:
            if keep:
                state[name] = tensor.detach().cpu().clone()
        return state

    def decoder_state(self) -> dict[str, torch.Tensor]:
        """The prompt encoder and mask decoder by their names under ``sam2_model`` (float32, CPU, rank 0)."""
        generator, _ = super().get_per_tensor_param()
        keep = torch.distributed.get_rank() == 0
        return {n: t.detach().float().cpu().clone() for n, t in decoder_items(generator) if keep}


def wants_mask_losses(micro_batch: TensorDict) -> bool:
    """Losses against ground truth: in every update, and in supervised validation (RL's log-prob pass needs none)."""
    return torch.is_grad_enabled() or "episode" in micro_batch.keys()  # noqa: SIM118


def forbidden_token_ids(tokenizer: Any) -> list[int]:
    """Ids that a policy may never sample (dialogue and vision structure)."""
    from rollout.chat_format import ChatFormat

    return sorted(ChatFormat.from_tokenizer(tokenizer).forbidden)


def union_mask(sample: Sample, frame: int) -> Any:
    """(H, W) bool ground truth of a sample's frame; a sample without masks has no target anywhere."""
    if sample.masklets is None:
        import numpy as np

        return np.zeros((sample.clip.height, sample.clip.width), dtype=bool)
    return sample.masklets.union(frame)
