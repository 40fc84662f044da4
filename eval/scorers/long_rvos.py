"""Long-RVOS: J and F with the temporal and the volumetric overlap."""

from __future__ import annotations

from typing import ClassVar

from eval.scorers.base import Case, Scorer
from eval.scorers.registry import register_scorer
from rewards.metrics import temporal_iou, volumetric_iou


@register_scorer("long_rvos")
class LongRVOS(Scorer):
    """Adds tIoU = |Si| / |Su| and vIoU = (1 / |Su|) * sum over Si of IoU_t.

    Si are the frames in which prediction and ground truth are both non-empty, Su those in which either is: the official
    tool's formulas. Nothing predicted where nothing is (Su empty) counts 1.
    """

    extra: ClassVar[tuple[str, ...]] = ("tiou", "viou")

    def extras(self, case: Case) -> dict[str, float | None]:
        masks = case.masks
        return {
            "tiou": temporal_iou(masks.pred_visible, masks.gt_visible),
            "viou": volumetric_iou(masks.j, masks.pred_visible, masks.gt_visible),
        }
