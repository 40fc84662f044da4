"""Which parameters of the policy train: low-rank adapters, a frozen vision tower; and the state without adapters.

VideoSEG-O3's supervised stages (SPEC 2.6): adapters on the language model's linear layers; token embeddings, output
layer, projection and mask decoder in full; the vision tower as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from rollout.errors import RecipeError
from verl_ext.policy.head import is_head_parameter

if TYPE_CHECKING:
    from verl_ext.recipe import LoraRecipe

PEFT_PREFIX = "base_model.model."
NOT_ADAPTED = r".*visual.*|.*grounding_encoder.*|.*text_hidden_fcs.*"
"""Modules without adapters: the vision tower and the segmentation head."""


def plain_name(name: str) -> str:
    """A parameter's or module's name as if there were no adapters."""
    return name.removeprefix(PEFT_PREFIX).replace(".base_layer", "")


def freeze_vision(module: nn.Module) -> None:
    """Keep the vision tower as it is.

    Raises:
        RecipeError: the model has none under the name that Qwen-VL models use.
    """
    visual = getattr(getattr(module, "model", None), "visual", None)
    if not isinstance(visual, nn.Module):
        raise RecipeError(
            f"policy.freeze_vision: true, but {type(module).__name__} has no vision tower at model.visual; "
            "set it to false"
        )
    visual.requires_grad_(False)


def attach_adapters(module: nn.Module, lora: LoraRecipe, embeddings: bool) -> nn.Module:
    """``module`` inside a PEFT model with fresh adapters on the language model.

    verl 0.9.1 builds its LoraConfig without a dropout and freezes everything else, so this takes its place.

    Args:
        embeddings: also train token embeddings and output layer in full, see `Recipe.trains_embeddings`.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    model: Any = module
    trained = [p for n, p in model.named_parameters() if is_head_parameter(n) and p.requires_grad]
    if embeddings:
        trained += [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    model.enable_input_require_grads()
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear",
        exclude_modules=NOT_ADAPTED,
        bias="none",
    )
    dtype = next(model.parameters()).dtype
    adapted: nn.Module = get_peft_model(model, config)
    for name, p in adapted.named_parameters():
        if ".lora_" in name:
            p.data = p.data.to(dtype)  # FSDP wants one dtype in a group
    for p in trained:
        p.requires_grad_(True)
    return adapted


def gathered_items(
    module: nn.Module, wanted: Callable[[str], bool] = lambda name: True
) -> Iterator[tuple[str, torch.Tensor]]:
    """(plain name, whole tensor) of the state entries that are ``wanted``, adapters merged into their weights.

    A collective call on sharded modules: every rank must exhaust it with the same ``wanted``. Tensors are on the
    module's device; only merged ones are copies.
    """
    adapters = dict(_adapters(module))
    for name, tensor in module.state_dict().items():
        plain = plain_name(name)
        if ".lora_" in name or not wanted(plain):
            continue
        value = whole(tensor)
        if plain in adapters:
            layer = adapters[plain]
            down, up = (whole(part["default"].weight.detach()) for part in (layer.lora_A, layer.lora_B))
            change = layer.scaling["default"] * (up.float() @ down.float())
            value = (value.float() + change).to(value.dtype)
        yield plain, value


def _adapters(module: nn.Module) -> Iterator[tuple[str, Any]]:
    if not any(".lora_" in name for name, _ in module.named_parameters()):
        return
    from peft.tuners.lora import LoraLayer

    for name, child in module.named_modules():
        if isinstance(child, LoraLayer):
            yield f"{plain_name(name)}.weight", child


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The full tensor of a shard (a collective call), or the tensor itself."""
    if not isinstance(tensor, DTensor):
        return tensor
    from verl.utils.device import get_device_id

    return tensor.to(get_device_id()).full_tensor()  # type: ignore[no-any-return, attr-defined]
