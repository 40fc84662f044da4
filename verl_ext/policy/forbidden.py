"""Tokens that a policy may never say: masked in its logits as the sampler masks them.

Both sides then normalise over the same tokens. Without it log-probs differ by a constant: verl masks vision ids and ids
beyond the tokenizer in vLLM, but not in the actor (verl 0.9.1; the published Qwen3-VL has 267 such spare ids).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

FORBIDDEN_LOGIT = -1e9
"""Finite after a division by any temperature, so that entropy (0 x logit) stays a number."""


def forbid_tokens(module: nn.Module, token_ids: Sequence[int], vocabulary: int | None = None) -> None:
    """From now on ``module``'s output has the logits of these ids, and of ids >= ``vocabulary``, at the least.

    To be called on the outermost module (a PEFT model calls the inner one past its hooks), before FSDP wraps it.
    """
    banned: torch.Tensor | None = None

    def mask(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        nonlocal banned
        logits = output.logits
        if banned is None or banned.device != logits.device:
            banned = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
            banned[list(token_ids)] = True
            if vocabulary is not None:
                banned[vocabulary:] = True
        output.logits = logits.masked_fill(banned, FORBIDDEN_LOGIT)
        return output

    module.register_forward_hook(mask)
