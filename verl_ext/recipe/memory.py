"""Expected memory of each process, by formulas: rough (25 %), and enough to see what cannot fit.

With N parameters, P FSDP processes, L layers of width d, a vocabulary of V, S tokens in a pass, b bytes a value:

- weights, gradients and Adam's two means are float32 and sharded: N * 4 * (1 + 1 + 2) / P; with LoRA only the adapters
  have gradients and means (2 r d per adapted matrix, about 7 a layer);
- a lone process without gradient checkpointing keeps its parameters in the compute precision through a pass: N * b;
- the reference (RL with a KL term and no LoRA): N * 4 / P, on the host with policy.offload_reference;
- activations: S * L * d * b with gradient checkpointing plus one layer in full, else 50 * S * L * d * b (50 is what one
  forward and backward at the 2B shape took, 8192 tokens, SDPA);
- logits: S * V * (b + 8), the model's own and a float32 copy with its gradient; of a row S * V * b, and with
  checkpointing of 8192 tokens at a time (S is then the row's tokens, of which at most all are scored);
- SAM 2's frozen features of a step's frames (RL): 22 MiB times b a frame of Hiera-L, policy.frame_features_gib at most;
- on the host beside them: frames that SAM 2 is about to see (256 MiB at most), policy.pictures_gib of pictures, and
  while a policy is saved all its weights in float32 on the first process, N * 4;
- vLLM: N * b / tensor_parallel of weights, and its KV cache;
- a pool worker: SAM 2 in float32 (224 M parameters for Hiera-L) and 8 MiB for each cached frame at 1024 x 1024.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from verl_ext.recipe.model_size import ModelSize

if TYPE_CHECKING:
    from verl_ext.recipe.schema import Recipe

GIB = float(1 << 30)
LAYER_FACTOR = 50
ROW_CHUNK = 8192
"""See `verl_ext.packing.logprob`."""
ADAPTED_MATRICES = 7
SAM2_PARAMETERS = {
    "sam2.1_hiera_t": 39e6,
    "sam2.1_hiera_s": 46e6,
    "sam2.1_hiera_b+": 81e6,
    "sam2.1_hiera_l": 224e6,
    "tiny": 4e6,
    "sam3": 465e6,
    "sam3_tiny": 4e6,
}
FRAME_MIB = 8.0
TINY_HEAD = 30e6
"""Parameters; a smaller SAM 2 sees an eighth of the side."""
CACHE_GIB = 0.5
"""Decoded frames that an actor keeps, see `verl_ext.seg.features` and `verl_ext.policy.pictures`."""
FROZEN_MIB = 22.0
"""Frozen features of a frame at 1024 x 1024, for each byte a value."""
PYTHON_GIB = 0.7
"""Interpreter with torch, transformers and verl imported."""


def activation_gib(recipe: Recipe, size: ModelSize) -> dict[str, float]:
    """Activations and logits of one forward and backward pass; empty if the model's shape is not known."""
    if size.hidden is None or size.layers is None or size.vocabulary is None:
        return {}
    roll = recipe.rollout
    length = roll.engine.max_model_len if recipe.stage == "sft" else roll.prompt_length + roll.response_length
    width = bytes_per_value(recipe)
    tokens = recipe.trainer.micro_batch * length
    logits: float = tokens * (width + 8)
    if recipe.policy.packing != "none":
        sequences = recipe.trainer.prompts_per_step * (recipe.rollout.group_size if recipe.stage == "grpo" else 1)
        tokens = min(recipe.policy.row_tokens, sequences // recipe.trainer.actor_processes * length)
        logits = width * (min(tokens, ROW_CHUNK) if recipe.policy.gradient_checkpointing else tokens)
    one_layer = LAYER_FACTOR * tokens * size.hidden * width
    kept = one_layer * size.layers
    if recipe.policy.gradient_checkpointing:
        kept = one_layer + tokens * size.layers * size.hidden * width
    return {"activations": kept / GIB, "logits": logits * size.vocabulary / GIB}


def actor_gib(recipe: Recipe, size: ModelSize) -> dict[str, float]:
    """Parts of one FSDP process (actor, and the reference beside it)."""
    if size.parameters is None:
        return {}
    share = 4 / recipe.trainer.actor_processes / GIB
    total = size.parameters + size.head_parameters
    trained: float = total
    if recipe.policy.lora.rank and size.hidden is not None and size.layers is not None:
        trained = 2 * recipe.policy.lora.rank * size.hidden * ADAPTED_MATRICES * size.layers + size.head_parameters
        trained += size.hidden * (size.vocabulary or 0) if recipe.trains_embeddings else 0
    parts = {"weights": total * share, "gradients": trained * share, "Adam": 2 * trained * share}
    if keeps_gathered(recipe):
        parts["gathered weights"] = total * bytes_per_value(recipe) / GIB
    if holds_reference(recipe) and not _on_host(recipe):
        parts["reference"] = size.parameters * share
    if recipe.stage == "grpo" and size.head_parameters:
        parts["frame features"] = frame_features_gib(recipe, size)
    return parts | activation_gib(recipe, size)


def frame_features_gib(recipe: Recipe, size: ModelSize) -> float:
    """What an actor keeps of a step's frames: a group's spatial and middle frames, each rollout's keyframes."""
    roll, trainer = recipe.rollout, recipe.trainer
    frames = roll.initial_spatial + 1 + roll.group_size * (roll.max_turns - 1)
    groups = -(-trainer.prompts_per_step // trainer.actor_processes)
    frame = FROZEN_MIB * bytes_per_value(recipe) / (64 if size.head_parameters < TINY_HEAD else 1)
    return min(recipe.policy.frame_features_gib, groups * frames * frame / 1024)


def actor_host_gib(recipe: Recipe, size: ModelSize) -> dict[str, float]:
    """Parts that one FSDP process keeps on the host in any case; the copy that is saved is all on the first one."""
    if size.parameters is None:
        return {}
    frames = CACHE_GIB / (8 if size.head_parameters < TINY_HEAD else 1) if size.head_parameters else 0.0
    saved = (size.parameters + size.head_parameters) * 4 / GIB
    parts = {"frames": frames, "copy while saving": saved / recipe.trainer.actor_processes}
    if holds_reference(recipe) and _on_host(recipe):
        parts["reference"] = size.parameters * 4 / recipe.trainer.actor_processes / GIB
    return parts


def engine_gib(recipe: Recipe, size: ModelSize) -> dict[str, float]:
    """Parts of one vLLM process; on a GPU the KV cache is what its share of the GPU leaves."""
    engine = recipe.rollout.engine
    parts = {}
    if size.parameters is not None:
        parts["weights"] = size.parameters * bytes_per_value(recipe) / engine.tensor_parallel / GIB
    if recipe.device == "cpu" or engine.kv_cache_gib is not None:
        parts["KV cache"] = engine.kv_cache_gib or 1
    return parts


def pool_gib(recipe: Recipe, size: ModelSize) -> dict[str, float]:
    """Parts of one pool worker: its SAM 2 is the policy's own unless ``pool.checkpoint`` names another."""
    own = recipe.pool.checkpoint is None
    tiny = own and 0 < size.head_parameters < TINY_HEAD
    parameters = size.head_parameters if own and size.head_parameters else SAM2_PARAMETERS[recipe.pool.preset]
    frame = FRAME_MIB / (64 if tiny else 1)  # a tiny SAM 2 sees an eighth of the side
    return {"SAM 2": parameters * 4 / GIB, "cached frames": recipe.pool.cache_frames * frame / 1024}


def keeps_gathered(recipe: Recipe) -> bool:
    """Whether parameters stay gathered from the forward to the backward pass. One process has nobody to gather from,
    yet FSDP copies each of them for either."""
    return recipe.trainer.actor_processes == 1 and not recipe.policy.gradient_checkpointing


def bytes_per_value(recipe: Recipe) -> int:
    """Of the compute precision."""
    return 2 if recipe.policy.dtype == "bfloat16" else 4


def holds_reference(recipe: Recipe) -> bool:
    """Whether that is a model of its own: with adapters it is the policy without them."""
    return needs_reference(recipe) and not recipe.policy.lora.rank


def _on_host(recipe: Recipe) -> bool:
    return recipe.device == "cuda" and recipe.policy.offload_reference


def needs_reference(recipe: Recipe) -> bool:
    """Whether the run holds a reference policy."""
    return recipe.stage == "grpo" and recipe.objective.kl_coef > 0
