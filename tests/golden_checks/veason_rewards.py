"""``veason_r1_rewards.json``: Veason-R1's rewards and the boxes that reach SAM 2, released variant."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.golden_checks.report import Case, Check


def masks(runs: list[list[int]], height: int, width: int) -> NDArray[np.bool_]:
    """(F, H, W) bool from row-major run lengths that begin with zeros."""
    flat = [np.repeat(np.arange(len(run)) % 2 == 1, run) for run in runs]
    return np.stack(flat).reshape(len(runs), height, width)


def compute(case: dict[str, Any], variant: str = "released") -> dict[str, Any]:
    """Our values, under the golden names."""
    import torch

    from rewards import VEASON_REWARDS, BoxRewardInput, compute_rewards
    from rewards.segmenter import mask_iou
    from rewards.veason import matched_boxes

    truth = masks(case["gt_masks"], case["height"], case["width"])
    predicted = masks(case["pred_masks"], case["height"], case["width"])
    x = BoxRewardInput(
        text=case["text"],
        timestamps=case["frame_ids"],
        gt_boxes=[case["gt_boxes"][str(i)] for i in range(len(case["frame_ids"]))],
        areas=truth.sum(axis=(1, 2)).tolist(),
        frame_ious=mask_iou(torch.from_numpy(predicted), torch.from_numpy(truth)).tolist(),
    )
    ours = compute_rewards(x, VEASON_REWARDS, variant)  # type: ignore[arg-type]
    return {
        "format": ours["veason_format"],
        "keyframe": ours["veason_keyframe"],
        "spatial_plus_consistency": ours["veason_spatial"] + ours["veason_consistency"],
        "matched_boxes_passed_to_sam2": matched_boxes(x, variant),  # type: ignore[arg-type]
    }


def _cases(data: Any) -> list[Case]:
    import rewards.veason  # noqa: F401 - says at once if the feature is missing

    matched = "matched_boxes_passed_to_sam2"
    return [
        Case(f"case {i}", {**case["expected"], matched: case[matched]}, partial(compute, case))
        for i, case in enumerate(data)
    ]


CHECK = Check("veason_r1_rewards.json", 1e-5, _cases)
