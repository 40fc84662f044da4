"""Turn a Qwen-VL into one whose forward takes rows; refuse what cannot.

Raises RecipeError: every check names what was found and the key to change.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rollout.errors import RecipeError
from verl_ext.packing.attention import TEXT, VISION, register
from verl_ext.packing.forward import score_in_head
from verl_ext.recipe.asking import ROW_MODELS

RECOMPILE_LIMIT = 64
"""dynamo's own 8 is soon reached (gradients or not, views, FSDP's class); layers beyond it run eagerly in silence."""


def use_rows(model: Any, half: bool, device: str) -> None:
    """Attention over rows for both towers, and the patch embedding as the matrix product that it is.

    Args:
        model: as transformers built it, before adapters, head and FSDP.
        half: whether it computes in bfloat16.
    """
    if problem := obstacle(model.config, half, device):
        raise RecipeError(f"policy.packing: {problem}; set policy.packing=none")
    register()
    model.set_attn_implementation({"": TEXT, "text_config": TEXT, "vision_config": VISION})
    score_in_head(model.lm_head)
    _linear_patches(model.model.visual.patch_embed)
    if hasattr(model.model.language_model, "_deepstack_process"):
        _deepstack_by_index(model.model.language_model)


def obstacle(config: Any, half: bool, device: str) -> str:
    """Why the attention of the rows cannot serve this model; empty if it can."""
    kind = getattr(config, "model_type", "?")
    if kind not in ROW_MODELS:
        return f"the policy is a {kind}, and rows are written for {' and '.join(ROW_MODELS)}"
    text, vision = config.text_config, config.vision_config
    if getattr(text, "use_sliding_window", False):
        return "the language model attends in sliding windows, which rows do not"
    for name, part in (("language", text), ("vision", vision)):
        if dropout := getattr(part, "attention_dropout", 0.0):
            return f"the {name} model has attention_dropout {dropout}, which the kernels leave out"
    if device != "cuda":
        return ""
    if not half:
        return "the CUDA kernels compute in bfloat16, but policy.dtype is float32"
    heads = text.num_attention_heads, getattr(vision, "num_heads", 0)
    sizes = (getattr(text, "head_dim", None) or text.hidden_size // heads[0], vision.hidden_size // heads[1])
    if max(sizes) > 256 or any(s % 8 for s in sizes):
        return f"attention heads are {sizes} wide, and the CUDA kernels take multiples of 8 up to 256"
    return ""


def _linear_patches(embed: nn.Module) -> None:
    """cuDNN's 3-D convolution over single patches takes fifteen times as long."""

    def forward(pixels: Tensor) -> Tensor:
        proj: Any = embed.proj
        return nn.functional.linear(pixels.to(proj.weight.dtype), proj.weight.flatten(1), proj.bias)

    embed.forward = forward  # type: ignore[assignment]


def _deepstack_by_index(language: Any) -> None:
    """A picture's deepstack features are added to rows that the host knows.

    transformers finds them by a mask: six waits for the device a forward, as many a backward, which also sorts. The
    sums are the same, and other callers' masks are served as before.
    """
    by_mask = language._deepstack_process

    def add(states: Tensor, where: Tensor, features: Tensor) -> Tensor:
        """states (1, T, C), where (rows,) int64 without a row twice, features (rows, C)."""
        if where.dtype == torch.bool:
            return by_mask(states, where, features)  # type: ignore[no-any-return]
        return states.index_add(1, where, features.to(states.dtype)[None])

    language._deepstack_process = add


def compile_layers(model: Any) -> None:
    """Compile every layer of both towers for rows of any length; parameters keep their names.

    Fused kernels round where eager ones do: graphs with and without gradients are fused differently, and the importance
    ratio would not start at 1. Nor would it where a graph's reductions are laid out by what was fastest when that graph
    was first run: the same sum in another order.
    """
    from torch._inductor import config as inductor

    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    inductor.emulate_precision_casts = True
    inductor.deterministic = True
    for layer in (*model.model.language_model.layers, *model.model.visual.blocks):
        layer.forward = torch.compile(layer.forward, dynamic=True)
