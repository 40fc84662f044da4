"""``videoseg_o3_rewards.json``: nine rewards of VideoSEG-O3, released variant."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.golden_checks.report import Case, Check

NAMES = {
    "strict_format_cot": "strict_format",
    "step_format_cot": "step_format",
    "lr_vtg_iou_dense": "interval",
    "lr_vtg_keyframe": "keyframe_hit",
    "lr_maskiou_dense": "mask_iou",
    "lr_keyframe_vs_mask_dense": "keyframe_vs_mask",
    "lr_progressive_keyframe_dense": "progressive_keyframe",
    "lr_keyframeiou_dense": "keyframe_iou",
    "termination": "termination",
}
"""Golden name -> ours."""


def compute(case: dict[str, Any], variant: str = "released") -> dict[str, float]:
    """Our value of each reward, under its golden name."""
    from rewards import RewardInput, compute_rewards

    x = RewardInput(case["turns"], case["mask_existence"], case["per_round_maskious"], case["per_round_keyframe_ious"])
    ours = compute_rewards(x, NAMES.values(), variant)  # type: ignore[arg-type]
    return {golden: ours[name] for golden, name in NAMES.items()}


def _cases(data: Any) -> list[Case]:
    import rewards  # noqa: F401 - says at once if the feature is missing

    return [Case(f"case {i}", case["expected"], partial(compute, case)) for i, case in enumerate(data)]


CHECK = Check("videoseg_o3_rewards.json", 1e-5, _cases)
