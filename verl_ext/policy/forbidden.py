"""Tokens that a policy may never say: masked in its logits as the sampler masks them.

Both sides then normalise over the same tokens. Without it log-probs differ by a constant: verl masks vision ids and ids
beyond the tokenizer in vLLM, but not in the actor (verl 0.9.1; the published Qwen3-VL has 267 such spare ids).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from verl_ext.packing.logprob import FORBIDDEN_LOGIT

__all__ = ["FORBIDDEN_LOGIT", "forbid_tokens", "forbidden_mask"]


def forbidden_mask(size: int, token_ids: Sequence[int], vocabulary: int | None = None) -> torch.Tensor:
    """(size,) bool: these ids, and ids >= ``vocabulary``."""
    banned = torch.zeros(size, dtype=torch.bool)
    banned[list(token_ids)] = True
    if vocabulary is not None:
        banned[vocabulary:] = True
    return banned


def forbid_tokens(module: nn.Module, token_ids: Sequence[int], vocabulary: int | None = None) -> None:
    """From now on ``module``'s output has the logits of these ids, and of ids >= ``vocabulary``, at the least.

    To be called on the outermost module (a PEFT model calls the inner one past its hooks), before FSDP wraps it. Rows
    have no logits in their output: their kernel masks.
    """
    banned: torch.Tensor | None = None

    def mask(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        nonlocal banned
        logits = getattr(output, "logits", None)
        if logits is None:
            return output
        if banned is None or banned.device != logits.device:
            banned = forbidden_mask(logits.shape[-1], token_ids, vocabulary).to(logits.device)
        output.logits = logits.masked_fill(banned, FORBIDDEN_LOGIT)
        return output

    module.register_forward_hook(mask)
