"""How much of the decoupled thinking trace is there (SPEC 2.5)."""

from __future__ import annotations

from rewards.parsing import think_block
from rewards.registry import register_reward
from rewards.types import RewardInput, Variant

_MARKERS = ("step 1", "step 2", "step 3", "action")


def _share(text: str) -> float:
    think = (think_block(text) or "").lower()
    return sum(marker in think for marker in _MARKERS) / len(_MARKERS)


@register_reward("step_format")
def step_format(x: RewardInput, variant: Variant) -> float:
    """0..1: mean over turns of the share of the four markers in the think block, whatever their case.

    No think block: 0. Both variants agree.
    """
    return sum(map(_share, x.turns)) / len(x.turns) if x.turns else 0.0
