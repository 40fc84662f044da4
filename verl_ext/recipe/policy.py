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
    prompt_set: str = "full"
    """``full`` explains the task to a pretrained model, ``brief`` is a few words for a tiny one, ``stamped`` the same
    with each frame's number before it, ``release_form`` asks in the form of the release; or a YAML file of one's own
    (``rollout/prompts.py``)."""
    dtype: Dtype = "bfloat16"
    """Compute and rollout precision; master weights and the optimiser are float32."""
    attn: Literal["sdpa", "flash_attention_2"] = "sdpa"
    """Attention kernel of the FSDP workers' passes without rows (``packing: none``)."""
    packing: Literal["none", "packed", "group"] = "group"
    """How passes over many sequences run. ``group``: rows of whole groups, every prompt and its pictures once however
    many rollouts began with it (supervised data has no groups and is ``packed``). ``packed``: rows of whole sequences.
    ``none``: padded micro-batches of ``trainer.micro_batch``. All three compute the same."""
    row_tokens: int = 16384
    """Tokens of a row, at most: raise it until memory is full, more than 16 k gains nothing. At least the longest
    sequence."""
    compile: bool = False
    """Compile both towers' layers (with rows): the first step takes about 34 s longer, later passes of a 2B policy
    run on fewer and larger kernels. For runs of hundreds of steps; compare both on your GPU with
    ``benchmarks/grpo_step.py``."""
    gradient_checkpointing: bool = True
    """Recompute activations in the backward pass: about a third slower, far less memory."""
    offload_reference: bool = False
    """Hold the reference policy in host memory and copy it to the GPU for every row, in float32 (8.4 GB at 2B): slower,
    for a GPU without room for it. Not used on a CPU, nor with adapters, which have no reference of their own."""
    remove_padding: bool = False
    """With ``packing: none``, pack micro-batches without padding by flash-attn; needs flash_attention_2."""
    lora: LoraRecipe = field(default_factory=LoraRecipe)
    """Low-rank adapters."""
    freeze_vision: bool = False
    """Keep the vision tower as it is (both SFT stages do, RL trains it)."""
    frame_features_gib: float = 8.0
    """GPU memory (host memory on a CPU) of a process for SAM 2's frozen features of a step's frames, so that a clip is
    encoded once for all passes: 44 MiB a frame with Hiera-L in bfloat16. As much host memory takes what does not fit,
    and the rest is encoded again in each pass. The supervised stages need a frame once and keep none."""
    pictures_gib: float = 0.25
    """Host memory of a process for decoded pictures, uint8: a quarter holds those of some 280 VideoSEG-O3 rollouts in
    groups of 4. Where several GiB hold all that a small data set shows, later epochs read nothing."""
