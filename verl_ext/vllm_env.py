"""What vLLM's workers read from the environment (importable without vLLM)."""

from __future__ import annotations

FORBIDDEN_TOKENS_ENV = "VIDEOSEG_FORBIDDEN_TOKEN_IDS"


def policy_forbidden_token_ids(folder: str) -> list[int]:
    """Ids that the policy in ``folder`` may never sample."""
    from transformers import AutoTokenizer

    from rollout.chat_format import ChatFormat

    return sorted(ChatFormat.from_tokenizer(AutoTokenizer.from_pretrained(folder)).forbidden)
