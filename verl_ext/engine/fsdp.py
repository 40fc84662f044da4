"""The FSDP engine: verl's own, plus the segmentation head and what it returns.

Registered for ``cpu`` and, through the vendor key that wins over the stock entry, for ``cuda``.
Outputs beside log-probs and entropy, per sequence and jagged, each row with one leading dummy entry; none of them for a
policy without a head:

seg_states       (1 + n) * C float32: projected ``[SEG]`` states
mask_log_prob    (1 + n) float32: how likely this policy's masks are under the rollout's (SPEC 2.3)
seg_ious         (1 + n k) float32: IoU of each mask with ground truth; only where the pool shares this GPU
mask_target      (1 + n k) * 1024 uint8: the binarised rollout masks, k a token; only where the batch carries none
                 (with ``calibration.form: state`` the drawn states take the masks' place in all three)
aux_bce/aux_dice 2 float32 (dense): means over the sequence's video masks and over its keyframe masks (training only)
aux_kept         2 float32 (dense): shares of those that objective.aux_min_iou lets count
aux_masks        2 int64 (dense): how many those are
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
import verl.workers.engine.fsdp.transformer_impl as fsdp_impl
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id, get_device_name
from verl.workers.engine import EngineRegistry

from verl_ext.engine.gradient_terms import gradient_norms
from verl_ext.engine.pictures import batch_pictures
from verl_ext.engine.position_ids import repair_position_ids
from verl_ext.engine.resharding import ElasticCheckpoints
from verl_ext.engine.rows import RowEngine
from verl_ext.packing.forward import RowForward
from verl_ext.packing.prepare import compile_layers, use_rows
from verl_ext.policy.adapters import attach_adapters, freeze_vision, gathered_items, plain_name
from verl_ext.policy.checkpoint import attach_head_from, has_head
from verl_ext.policy.forbidden import forbid_tokens
from verl_ext.policy.head import DECODER_PREFIXES, PROJECTION_PREFIX, decoder_items, is_head_parameter
from verl_ext.policy.pictures import DRAWN, PixelValues, keep_pictures
from verl_ext.recipe.context import active_recipe
from verl_ext.seg.batch import (
    KEYFRAME,
    VIDEO,
    SegBatch,
    collect,
    mask_totals,
    row_lengths,
    rows_with_dummy,
    token_mask,
)
from verl_ext.seg.drawn_states import DRAW_STATES, state_noise, state_terms
from verl_ext.seg.episodes import micro_batch_episodes, non_tensor_rows
from verl_ext.seg.features import FrameFeatures
from verl_ext.seg.mask_losses import mask_losses
from verl_ext.seg.mask_scores import mask_ious
from verl_ext.seg.mask_terms import mask_terms

if TYPE_CHECKING:
    from verl_ext.recipe import Recipe


@EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device=["cpu"])
@EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device=["cuda"], vendor="nvidia")
class SegFSDPEngine(RowEngine):
    """See the module's docstring."""

    _frames: FrameFeatures | None = None
    """None for a policy without a head."""
    _pending: SegBatch | None = None
    _generator: torch.Generator | None = None
    _noise: torch.Tensor | None = None
    """Of the micro-batch whose outputs are not prepared yet."""
    _updates = 0

    # ---- building -----------------------------------------------------------------------------------------------

    def initialize(self) -> None:
        with patch.object(fsdp_impl, "FSDPCheckpointManager", ElasticCheckpoints):
            super().initialize()

    def _build_module(self) -> torch.nn.Module:
        module = super()._build_module()
        folder = self.model_config.local_path
        self._recipe = active_recipe()
        keep_pictures(self._recipe.policy.pictures_gib)
        self._pixels = PixelValues(self.model_config.processor.image_processor, torch.device(get_device_id()))
        settings = self._recipe.policy
        self.say_which_way()
        if settings.packing != "none":
            use_rows(module, settings.dtype == "bfloat16", get_device_name())
        if settings.compile:
            compile_layers(module)
        if settings.freeze_vision:
            freeze_vision(module)
        # the reference policy is the language model alone (SPEC 2.2): the forward-only engine gets no head
        if has_head(folder) and not self.engine_config.forward_only:
            attach_head_from(module, folder, next(module.parameters()).dtype)
            self._prompt_width = int(module.grounding_encoder.prompt_width)
            kept = feature_bytes(self._recipe)
            self._frames = FrameFeatures(
                int(module.grounding_encoder.config.input_size),
                near=kept,
                far=0 if get_device_name() == "cpu" else kept,
            )
        elif settings.packing != "none":
            plain = type(module)
            module.__class__ = type(plain.__name__, (RowForward, plain), {"__module__": plain.__module__})
        return module  # type: ignore[no-any-return]

    def _build_lora_module(self, module: torch.nn.Module) -> torch.nn.Module:
        return attach_adapters(module, self._recipe.policy.lora, embeddings=self._recipe.trains_embeddings)

    def _build_fsdp_module(self, module: torch.nn.Module) -> torch.nn.Module:
        tokenizer = self.model_config.tokenizer
        self.forbidden = forbidden_token_ids(tokenizer)
        forbid_tokens(module, self.forbidden, len(tokenizer))
        if get_device_name() != "cpu" and self._recipe.policy.offload_reference:
            return super()._build_fsdp_module(module)  # type: ignore[no-any-return]
        # verl 0.9.1 always puts the reference into pinned memory: a CPU cannot, and a GPU would copy it for every row
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

    def forward_backward_batch(self, data: TensorDict, loss_function: Any, forward_only: bool = False) -> Any:
        repair_position_ids(data)
        self._pixels.read_ahead(p for row in batch_pictures(data) for p in row)
        if self._frames is None:
            return super().forward_backward_batch(data, loss_function, forward_only)
        trains = not forward_only and not is_supervised(data)
        if trains:
            self._count_masks(data)
        self._frames.read_ahead(self._collect(data, training=not forward_only).frames)
        norms = self._gradient_norms(data, loss_function) if trains and self._norms_are_due() else {}
        out = super().forward_backward_batch(data, loss_function, forward_only)
        out["metrics"].update(norms)
        return out

    def _norms_are_due(self) -> bool:
        """At the first update, and every ``trainer.grad_every`` steps after it."""
        t, update = self._recipe.trainer, self._updates
        self._updates += 1
        return t.grad_every > 0 and update % (t.grad_every * max(1, t.prompts_per_step // t.mini_batch_prompts)) == 0

    def _gradient_norms(self, data: TensorDict, loss_function: Any) -> dict[str, Any]:
        return gradient_norms(
            self.module.named_parameters,
            data,
            loss_function,
            super().forward_backward_batch,
            self.optimizer_zero_grad,
            tu.get_non_tensor_data(data=data, key="micro_batch_size_per_gpu", default=1),
        )

    def _count_masks(self, data: TensorDict) -> None:
        """Masks of the whole mini-batch over all processes, by which the loss averages over masks."""
        episodes = [row["episode"] for row in non_tensor_rows(data, "extra_fields")]
        totals = torch.tensor(mask_totals(episodes), device=get_device_id())
        torch.distributed.all_reduce(totals, group=self.get_data_parallel_group())
        video, keyframe = totals.tolist()
        tu.assign_non_tensor(data, video_masks=video, keyframe_masks=keyframe)

    def prepare_model_inputs(self, micro_batch: TensorDict) -> tuple[dict[str, Any], dict[str, Any]]:
        if self.packing == "none":
            repair_position_ids(micro_batch)
        inputs, args = super().prepare_model_inputs(micro_batch)
        inputs.pop(DRAWN, None)
        if inputs.pop("pictures", None) is not None:
            inputs["pixel_values"] = self._pixels.of([p for row in batch_pictures(micro_batch) for p in row])
        self._pending = None
        if self._frames is None:
            return inputs, args
        seg = self._collect(micro_batch, training=torch.is_grad_enabled())
        device = micro_batch["input_ids"].device
        if self.packing == "none":
            lengths = row_lengths(micro_batch["input_ids"]).tolist()
            padded = not tu.get_non_tensor_data(data=micro_batch, key="use_remove_padding", default=True)
            inputs["seg_mask"] = token_mask(seg, lengths, inputs["input_ids"].shape, not padded).to(device)
        else:
            inputs["seg_rows"] = self._row.rows_of(seg.positions).to(device)
        inputs |= self._frame_inputs(seg, device)
        if self._recipe.objective.aux_trains == "head" and torch.is_grad_enabled() and not is_supervised(micro_batch):
            inputs["detach_masks"] = True
        drawn_before = micro_batch.get("old_mask_target", None) is not None
        if self._draws_states and not drawn_before and tu.get_non_tensor_data(micro_batch, DRAW_STATES, False):
            inputs["seg_noise"] = self._draw_noise(seg, device)
        self._pending = seg
        return inputs, args

    def _collect(self, data: TensorDict, training: bool) -> SegBatch:
        """The ``[SEG]`` tokens of a batch or micro-batch, and what its pass draws with them."""
        samples, episodes = micro_batch_episodes(data)
        all_frames = self._recipe.objective.calibration.frames == "all" and not is_supervised(data)
        scored = not training and self._scores_masks(data)
        return collect(samples, episodes, all_frames or training or scored or is_supervised(data))

    def _scores_masks(self, data: TensorDict) -> bool:
        """Whether the rollouts' log-prob pass is the pool: it holds the features that a pool on its GPU would make."""
        return self._recipe.pool.share_gpu and not is_supervised(data)

    def _frame_inputs(self, seg: SegBatch, device: torch.device) -> dict[str, Any]:
        """What the policy's forward takes to draw all masks of a micro-batch.

        Keyframes are a batch of their own, because in the rollout's pass they are alone: the ratio starts at 1.
        """
        assert self._frames is not None
        return {
            "sam_features": self._frames.of(seg.frames),
            "pair_state": seg.column(0).to(device),
            "pair_frame": seg.column(1).to(device),
            "pair_parts": [seg.rows_of(kind).to(device) for kind in (KEYFRAME, VIDEO)],
        }

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
            if self._scores_masks(micro_batch):
                out["seg_ious"] = mask_ious(seg, masks)
        if not is_supervised(micro_batch):
            out |= self._calibration_terms(seg, output, micro_batch)
        if wants_mask_losses(micro_batch):
            judged = masks if output.detached_mask_logits is None else output.detached_mask_logits
            least = 0.0 if is_supervised(micro_batch) else self._recipe.objective.aux_min_iou
            out["aux_bce"], out["aux_dice"], out["aux_kept"] = mask_losses(seg, judged, least)
            out["aux_masks"] = seg.mask_counts().to(masks.device)
        return out

    @property
    def _draws_states(self) -> bool:
        calibration = self._recipe.objective.calibration
        return calibration.enabled and calibration.form == "state"

    def _calibration_terms(self, seg: SegBatch, output: Any, micro_batch: TensorDict) -> dict[str, torch.Tensor]:
        """What joins the ``[SEG]`` tokens' log-probs, and in the rollout's own pass what was sampled."""
        settings, old_target = self._recipe.objective.calibration, micro_batch.get("old_mask_target", None)
        if not self._draws_states:
            return mask_terms(seg, output.mask_logits, old_target, settings)
        noise, self._noise = self._noise, None
        return state_terms(seg, output.seg_states, old_target, settings.sigma, noise)

    def _draw_noise(self, seg: SegBatch, device: torch.device) -> torch.Tensor:
        """From this process's own stream: rollouts of a group that lie on two processes must not get the same noise."""
        if self._generator is None:
            self._generator = torch.Generator(device)
            self._generator.manual_seed(self._recipe.seed * 100_003 + torch.distributed.get_rank())
        sigma = self._recipe.objective.calibration.sigma
        self._noise = state_noise(sum(seg.counts), self._prompt_width, sigma, self._generator)
        return self._noise

    # ---- weights out --------------------------------------------------------------------------------------------

    def get_per_tensor_param(self, **kwargs: Any) -> tuple[Any, Any]:
        """What goes to vLLM: the language model only (it refuses names that it does not know), adapters merged in.

        A step ends with it: its frames make room for vLLM, which wakes up next.
        """
        if self._frames is not None:
            self._frames.forget()
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
                state[name] = tensor.detach().to("cpu", copy=True)
        return state

    def decoder_state(self) -> dict[str, torch.Tensor]:
        """The prompt encoder and mask decoder by their names under ``sam2_model`` (float32, CPU, rank 0).

        Empty for a policy without a head.
        """
        keep = torch.distributed.get_rank() == 0
        items = gathered_items(self.module, lambda name: name.startswith(DECODER_PREFIXES))
        return {n: t.detach().float().cpu().clone() for n, t in decoder_items(items) if keep}

    def projection_state(self) -> dict[str, torch.Tensor]:
        """``text_hidden_fcs`` by its names in the policy (float32, CPU, rank 0); empty for a policy without a head."""
        keep = torch.distributed.get_rank() == 0
        items = gathered_items(self.module, lambda name: name.startswith(PROJECTION_PREFIX))
        return {n: t.detach().float().cpu().clone() for n, t in items if keep}


def feature_bytes(recipe: Recipe) -> int:
    """Of SAM 2's features that a process keeps. A supervised step has one pass, which needs each frame once."""
    return 0 if recipe.stage == "sft" else int(recipe.policy.frame_features_gib * (1 << 30))


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
