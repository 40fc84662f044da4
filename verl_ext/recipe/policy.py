"""The policy section: which model, and how it is held in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Dtype = Literal["bfloat16", "float32"]


@dataclass
class LoraRecipe:
    """Low-rank adapters on the language model (VideoSEG-O3's SFT: 128 / 256 / 0.05).

    VideoSEG-O3's supervised stages train token embeddings, output layer and mask head in full beside them;
    reinforcement the mask head only, because its reference is the policy with the adapters switched off; Veason-R1's
    supervised stage nothing else.
    """

    rank: int = 0
    """Rank of the adapters; 0 trains the language model in full."""
    alpha: int = 256
    """Scale: an adapter's output is multiplied by alpha / rank."""
    dropout: float = 0.05
    """Dropout on an adapter's input, a fraction."""


@dataclass
class PolicyRecipe:
    """The model that is trained."""

    path: str = "???"
    """Folder of a policy in Hugging Face layout; a ``[SEG]`` policy has its head in ``segmentation_head/``."""
    prompt_set: Literal["full", "brief"] = "full"
    """``full`` explains the task to a pretrained model; ``brief`` is a few words for a tiny one."""
    dtype: Dtype = "bfloat16"
    """Compute and rollout precision; master weights and the optimiser are float32."""
    attn: Literal["sdpa", "flash_attention_2"] = "sdpa"
    """Attention kernel of the FSDP workers."""
    gradient_checkpointing: bool = True
    """Recompute activations in the backward pass: about a third slower, far less memory."""
    remove_padding: bool = False
    """Pack sequences without padding; needs flash_attention_2."""
    lora: LoraRecipe = field(default_factory=LoraRecipe)
    """Low-rank adapters."""
    freeze_vision: bool = False
    """Keep the vision tower as it is (both SFT stages do, RL trains it)."""
    frame_features_gib: float = 8.0
    """GPU memory (host memory on a CPU) of a process for SAM 2's frozen features of a step's frames, so that a clip is
    encoded once for all passes: 44 MiB a frame with Hiera-L in bfloat16. As much host memory takes what does not fit,
    and the rest is encoded again in each pass. The supervised stages need a frame once and keep none."""
