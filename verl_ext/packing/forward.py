"""A Qwen-VL's forward over a row: it calls the towers itself (verl's own forward hands the vision tower no keywords).

Shape legend: T tokens of a row, M scored tokens, C hidden width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers.utils import ModelOutput

from verl_ext.packing.logprob import linear_log_prob
from verl_ext.packing.row import Row


class Scoring(NamedTuple):
    """How scored tokens become log-probs."""

    banned: Tensor
    """(V,) uint8, not 0 for tokens that have no probability."""
    temperature: float = 1.0
    keep_logits: bool = True


@dataclass
class RowOutput(ModelOutput):  # type: ignore[misc]
    """log_probs, entropy: (M,) float32, of the row's scored tokens."""

    log_probs: Tensor | None = None
    entropy: Tensor | None = None


class RowForward:
    """Mixed into a Qwen-VL for conditional generation: ``forward(row=...)`` scores a row, else it is what it was."""

    model: Any
    lm_head: Any

    def forward(self, *args: Any, row: Row | None = None, scoring: Scoring | None = None, **kwargs: Any) -> Any:
        if row is None or scoring is None:
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        log_probs, entropy = row_log_probs(self, row_states(self, row), row, scoring)
        return RowOutput(log_probs=log_probs, entropy=entropy)


def row_log_probs(policy: Any, states: Tensor, row: Row, scoring: Scoring) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies of the scored tokens, (M,) each; ``states``: (T, C) of `row_states`."""
    found: tuple[Tensor, Tensor] = policy.lm_head(states.index_select(0, row.scored_at), row.labels, scoring)
    return found


def score_in_head(head: nn.Linear) -> None:
    """The output layer's own forward gives log-probs where it gets labels: FSDP gathers an untied one just for it."""

    def forward(states: Tensor, labels: Tensor | None = None, scoring: Scoring | None = None) -> Any:
        if labels is None or scoring is None:
            return nn.functional.linear(states, head.weight, head.bias)
        return linear_log_prob(states, head.weight, labels, scoring.banned, scoring.temperature, scoring.keep_logits)

    head.forward = forward  # type: ignore[assignment]


def row_states(policy: Any, row: Row) -> Tensor:
    """(T, C) last hidden states."""
    language, visual = policy.model.language_model, policy.model.visual
    embeds = language.embed_tokens(row.ids)
    seen = visual(**row.vision)
    features = seen.pooler_output.to(embeds.dtype)
    deep = getattr(seen, "deepstack_features", None) or []
    extra: dict[str, Any] = {}
    if len(row.image_rows) == 0:
        embeds = embeds + 0.0 * sum(x.mean() for x in (features, *deep))
    else:
        embeds = embeds.index_copy(1, row.image_rows, features[None])
        if deep:  # rows in the place of the mask: see `prepare.use_rows`
            extra = {"visual_pos_masks": row.image_rows, "deepstack_visual_embeds": deep}
    states: Tensor = language(inputs_embeds=embeds, use_cache=False, **row.text, **extra).last_hidden_state[0]
    return states
