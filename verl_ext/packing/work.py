"""Floating-point operations that a pass needs, by which a run's MFU is reported; ``docs/design.md`` has the formula.

verl's own counter takes Qwen-VL for its language model, and a vision tower of another kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from verl_ext.packing.deal import Unit
from verl_ext.packing.dialogue import Dialogue


@dataclass(frozen=True)
class Work:
    """Operations of one forward."""

    language: float
    """Layers and attention."""
    head: float
    vision: float

    def __add__(self, other: Work) -> Work:
        return Work(self.language + other.language, self.head + other.head, self.vision + other.vision)

    def update(self, adapters: bool, frozen_vision: bool) -> float:
        """Of forward and backward. A backward takes twice a forward, half of that for weights: frozen ones save it,
        and a frozen tower has no backward at all. Recomputation is not counted."""
        language = (2 if adapters else 3) * self.language
        return language + 3 * self.head + (1 if frozen_vision else 3) * self.vision

    @property
    def forward(self) -> float:
        return self.language + self.head + self.vision


def operations(units: Sequence[Unit], dialogues: Sequence[Dialogue], config: Any, every_logit: bool = False) -> Work:
    """Of one forward over ``units``: a shared prompt and its pictures once, exact causal attention.

    Args:
        config: of the Qwen-VL.
        every_logit: logits of all tokens, not of the scored ones alone.
    """
    tokens = pairs = scored = patches = patch_pairs = 0.0
    for unit in units:
        p = dialogues[unit[0]].prompt if len(unit) > 1 else 0
        tokens += p
        pairs += p * p / 2
        for n, i in enumerate(unit):
            d = dialogues[i]
            m = len(d) - p
            tokens += m
            pairs += m * p + m * m / 2
            scored += len(d) if every_logit else float(d.scored.sum())
            own = d.patches if n == 0 or not p else d.patches[_shown(d, config) :]
            patches += sum(own)
            patch_pairs += sum(x * x for x in own)
    t, v = config.text_config, config.vision_config
    hidden, heads = t.hidden_size, t.num_attention_heads
    size = getattr(t, "head_dim", None) or hidden // heads
    layer = hidden * size * (2 * heads + 2 * t.num_key_value_heads) + 3 * hidden * t.intermediate_size
    language = t.num_hidden_layers * (2 * layer * tokens + 4 * heads * size * pairs)
    return Work(language, 2.0 * t.vocab_size * hidden * scored, _vision(v, hidden, patches, patch_pairs))


def _vision(v: Any, out: int, patches: float, pairs: float) -> float:
    width, merge = v.hidden_size, v.spatial_merge_size**2
    gated = hasattr(v, "fullatt_block_indexes")  # Qwen2.5-VL: three matrices a layer, windows in most
    block = 4 * width * width + (3 if gated else 2) * width * v.intermediate_size
    full = v.depth
    windowed = 0.0
    if gated:
        full = len(v.fullatt_block_indexes)
        windowed = (v.depth - full) * patches * (v.window_size // v.patch_size) ** 2
    mergers = 1 + len(getattr(v, "deepstack_visual_indexes", []))
    merged = merge * width
    embed = getattr(v, "in_channels", 3) * v.temporal_patch_size * v.patch_size**2 * width
    return (
        2 * (v.depth * block + embed) * patches
        + 4 * width * (full * pairs + windowed)
        + 2 * mergers * (merged * merged + merged * out) * patches / merge
    )


def _shown(dialogue: Dialogue, config: Any) -> int:
    return dialogue.prompt_pictures(config.vision_config.spatial_merge_size)
