"""The FSDP engine: verl's own, plus the segmentation head and what it returns.

Registered for ``cpu`` and, through the vendor key that wins over the stock entry, for ``cuda`` (DESIGN 5).
Outputs beside log-probs and entropy, per sequence and jagged, each row with one leading dummy entry; none of them for a
policy without a head:

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

from verl_ext.calibration import TARGET_SIZE, binarise_rollout_mask, mask_log_prob
from verl_ext.context import active_recipe
from verl_ext.episodes import micro_batch_episodes
from verl_ext.policy.adapters import attach_adapters, freeze_vision, gathered_items, plain_name
from verl_ext.policy.checkpoint import attach_head_from, has_head
from verl_ext.policy.forbidden import forbid_tokens
from verl_ext.policy.head import DECODER_PREFIXES, decoder_items, is_head_parameter
from verl_ext.position_ids import repair_position_ids
from verl_ext.seg_batch import (
    FrameCache,
    SegBatch,
    collect,
    row_lengths,
    rows_with_dummy,
    rows_without_dummy,
    token_mask,
)
from verl_ext.seg_losses import mask_losses

TARGET_PIXELS = TARGET_SIZE * TARGET_SIZE


@EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device=["cpu"])
@EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device=["cuda"], vendor="nvidia")
class SegFSDPEngine(FSDPEngineWithLMHead):  # type: ignore[misc]
    """See the module's docstring."""

    _frames: FrameCache | None = None
    """None for a policy without a head."""
    _pending: SegBatch | None = None

    # ---- building -----------------------------------------------------------------------------------------------

    def _build_module(self) -> torch.nn.Module:
        module = super()._build_module()
        folder = self.model_config.local_path
        self._recipe = active_recipe()
        if self._recipe.policy.freeze_vision:
            freeze_vision(module)
        # the reference policy is the language model alone (SPEC 2.2): the forward-only engine gets no head
        if has_head(folder) and not self.engine_config.forward_only:
            attach_head_from(module, folder, next(module.parameters()).dtype)
            segmenter = module.grounding_encoder
            self._frames = FrameCache(segmenter.preprocess, self._recipe.pool.cache_frames)
            self._image_size = int(segmenter.config.input_size)
        return module  # type: ignore[no-any-return]

    def _build_lora_module(self, module: torch.nn.Module) -> torch.nn.Module:
        return attach_adapters(module, self._recipe.policy.lora, embeddings=self._recipe.stage == "sft")

    def _build_fsdp_module(self, module: torch.nn.Module) -> torch.nn.Module:
        tokenizer = self.model_config.tokenizer
        forbid_tokens(module, forbidden_token_ids(tokenizer), len(tokenizer))
        if get_device_name() != "cpu":
            return super()._build_fsdp_module(module)  # type: ignore[no-any-return]
        # verl 0.9.1 puts the reference into pinned memory, which needs an accelerator
        with patch.object(fsdp_impl, "CPUOffloadPolicy", lambda pin_memory=True: None):
            wrapped = super()._build_fsdp_module(module)
        self._uses_fsdp2_cpu_offload_policy = False
        return wrapped  # type: ignore[no-any-return]

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
            rate = next((r for prefix, r in rates.items() if plain_name(name).startswith(prefix)), optim.lr)
            groups.setdefault(rate, []).append(parameter)
        optimizer: torch.optim.Optimizer = build_optimizer(
            [{"params": p, "lr": lr} for lr, p in groups.items() if p], self.optimizer_config
        )
        return optimizer

    # ---- forward ------------------------------------------------------------------------------------------------

    def forward_backward_batch(self, data: TensorDict, *args: Any, **kwargs: Any) -> Any:
        repair_position_ids(data)
        return super().forward_backward_batch(data, *args, **kwargs)

    def prepare_model_inputs(self, micro_batch: TensorDict) -> tuple[dict[str, Any], dict[str, Any]]:
        repair_position_ids(micro_batch)
        inputs, args = super().prepare_model_inputs(micro_batch)
        self._pending = None
        if self._frames is None:
            return inputs, args
        samples, episodes = micro_batch_episodes(micro_batch)
        seg = collect(samples, episodes, with_video_frames=wants_mask_losses(micro_batch))
        device = inputs["input_ids"].device
        lengths = row_lengths(micro_batch["input_ids"]).tolist()
        packed = tu.get_non_tensor_data(data=micro_batch, key="use_remove_padding", default=True)
        inputs["seg_mask"] = token_mask(seg, lengths, inputs["input_ids"].shape, packed).to(device)
        pixels = self._frames.get(seg.frames) if seg.frames else torch.zeros(1, 3, self._image_size, self._image_size)
        inputs["sam_pixels"] = pixels.to(device)
        inputs["pair_state"], inputs["pair_frame"] = seg.column(0).to(device), seg.column(1).to(device)
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
        if not torch.is_grad_enabled():
            out["seg_states"] = rows_with_dummy(output.seg_states, seg.counts)
        if not is_supervised(micro_batch):
            out |= self._calibration(seg, masks[seg.keyframe_pairs().to(masks.device)], micro_batch)
        if wants_mask_losses(micro_batch):
            out["aux_bce"], out["aux_dice"] = mask_losses(seg, masks)
        return out

    def _calibration(self, seg: SegBatch, key_masks: torch.Tensor, micro_batch: TensorDict) -> dict[str, torch.Tensor]:
        """Mask log-probs of (N, h, w) keyframe masks; the first pass of a rollout also fixes what they aim at."""
        cal = self._recipe.objective.calibration
        out: dict[str, torch.Tensor] = {}
        if "old_mask_target" in micro_batch.keys():  # noqa: SIM118 - a TensorDict
            rows = list(rows_without_dummy(micro_batch["old_mask_target"], TARGET_PIXELS))
            target = torch.cat(rows).view(-1, TARGET_SIZE, TARGET_SIZE).to(key_masks.device)
        else:
            target = binarise_rollout_mask(key_masks, cal.threshold_variant)
            out["mask_target"] = rows_with_dummy(target.to(torch.uint8), seg.counts)
        logp = mask_log_prob(key_masks, target.bool(), reduction=cal.reduction, topk=cal.topk, weight=cal.weight)
        out["mask_log_prob"] = rows_with_dummy(logp, seg.counts)
        return out

    # ---- weights out --------------------------------------------------------------------------------------------

    def get_per_tensor_param(self, **kwargs: Any) -> tuple[Any, Any]:
        """What goes to vLLM: the language model only (it refuses names that it does not know), adapters merged in."""
        if self._is_lora:
            return gathered_items(self.module, lambda name: not is_head_parameter(name)), None
        generator, peft = super().get_per_tensor_param(**kwargs)
        return ((n, t) for n, t in generator if not is_head_parameter(n)), peft

    def full_state(self) -> dict[str, torch.Tensor]:
        """Every parameter gathered on the CPU; a collective call, kept on rank 0 only."""
        keep = torch.distributed.get_rank() == 0
        state = {}
        for name, tensor in gathered_items(self.module):
            if keep:
                state[name] = tensor.detach().cpu().clone()
        return state

    def decoder_state(self) -> dict[str, torch.Tensor]:
        """The prompt encoder and mask decoder by their names under ``sam2_model`` (float32, CPU, rank 0).

        Empty for a policy without a head.
        """
        keep = torch.distributed.get_rank() == 0
        items = gathered_items(self.module, lambda name: name.startswith(DECODER_PREFIXES))
        return {n: t.detach().float().cpu().clone() for n, t in decoder_items(items) if keep}


def is_supervised(micro_batch: TensorDict) -> bool:
    """Supervised batches carry their episode beside them, rollouts in ``extra_fields``."""
    return "episode" in micro_batch.keys()  # noqa: SIM118 - a TensorDict


def wants_mask_losses(micro_batch: TensorDict) -> bool:
    """Losses against ground truth: in every update, and in supervised validation (RL's log-prob pass needs none)."""
    return torch.is_grad_enabled() or is_supervised(micro_batch)


def forbidden_token_ids(tokenizer: Any) -> list[int]:
    """Ids that a policy may never sample (dialogue and vision structure)."""
    from rollout.chat_format import ChatFormat

    return sorted(ChatFormat.from_tokenizer(tokenizer).forbidden)
