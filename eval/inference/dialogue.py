"""What inference is told and what a dialogue comes to. Imports neither torch nor vLLM: the driver stays small."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.inference.backend import PolicyBackend
from rollout.types import Episode


@dataclass(frozen=True)
class InferenceSettings:
    """How dialogues are decoded. Token limits as in the recipe."""

    environment: str
    environment_settings: Mapping[str, Any]
    max_tokens: int
    max_prompt_tokens: int
    max_response_tokens: int
    turn_length: int
    images: int
    """The most images in one dialogue."""
    backend: PolicyBackend
    """Loads the policy and has its masks drawn."""
    dtype: str = "bfloat16"
    concurrency: int = 32
    """Dialogues in flight on one worker."""
    gpu_memory_utilization: float = 0.6
    max_num_batched_tokens: int = 8192
    """Tokens in one forward pass; never less than ``max_tokens`` is used."""
    kv_cache_gib: float = 1.0
    """Of vLLM on a CPU."""
    enforce_eager: bool = False
    vision_attention: str = "auto"
    """A key of `rollout.vllm_env.VISION_ATTENTION`."""
    tensor_parallel: int = 1
    sam2_preset: str = "sam2.1_hiera_l"
    """Which SAM 2 ``sam2_checkpoint`` is."""
    sam2_checkpoint: str | None = None
    """SAM 2 weights instead of the policy's own; box policies have none."""
    pool_cpus: float = 1.0
    """CPU cores that Ray reserves for each pool worker."""
    cache_frames: int = 256
    """Encoded frames that a pool worker keeps; 8 MB each for Hiera-L in bfloat16."""
    compile_segmenter: bool = False
    """Of the pool's segmenters, on a GPU."""
    stall_seconds: float = 1800.0
    """A worker that holds dialogues and answers none for so long is taken for hung, and replaced."""


@dataclass(frozen=True)
class Dialogue:
    """A finished episode with what its masks need."""

    episode: Episode
    states: list[np.ndarray[Any, Any] | None]
    """Per turn (C,) float32, or None without ``[SEG]``."""
    tokens: int
    """Tokens that the policy wrote."""
