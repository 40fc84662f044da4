"""What vLLM's workers read from the environment (importable without vLLM)."""

from __future__ import annotations

FORBIDDEN_TOKENS_ENV = "VIDEOSEG_FORBIDDEN_TOKEN_IDS"

CPU_EXECUTOR = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
"""Runs the model inside vLLM's engine process. vLLM-CPU would start one more, to bind its OpenMP threads to cores; ours
are bound to none, and the process costs ten seconds and half a GiB. (By its short name vLLM-CPU refuses it.)"""


def executor_of(device: str, tensor_parallel: int) -> str | None:
    """vLLM's ``distributed_executor_backend``; None leaves it to vLLM (or verl)."""
    return CPU_EXECUTOR if device == "cpu" and tensor_parallel == 1 else None


VISION_ATTENTION: dict[str, str | None] = {
    "auto": None,
    "flash": "FLASH_ATTN",
    "sdpa": "TORCH_SDPA",
    "triton": "TRITON_ATTN",
}
"""``rollout.engine.vision_attention`` as vLLM's ``mm_encoder_attn_backend``; None leaves it to vLLM."""


def policy_forbidden_token_ids(folder: str) -> list[int]:
    """Ids that the policy in ``folder`` may never sample."""
    from transformers import AutoTokenizer

    from rollout.chat_format import ChatFormat

    return sorted(ChatFormat.from_tokenizer(AutoTokenizer.from_pretrained(folder)).forbidden)


def multimodal_limits(images: int) -> dict[str, int]:
    """vLLM's ``limit_mm_per_prompt``: frames come as single images, and never as a video.

    Unless it is told so, vLLM prepares for the longest video that the model takes: it renders one twice before it
    serves (10 s on a CPU), and its memory profile counts with one.
    """
    return {"image": images, "video": 0}
