"""SAM 2 as this project uses it: decode ``[SEG]`` states, propagate states or boxes, score masks.

The configuration and the request types import without torch; everything else loads on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rewards.segmenter.config import PRESETS, SegmenterConfig
from rewards.segmenter.types import (
    BoxRequest,
    BoxScores,
    MaskRequest,
    MaskScores,
    PointRequest,
    PropagatedMasks,
    PropagateRequest,
    Request,
    Scores,
    SegRequest,
)

if TYPE_CHECKING:
    from rewards.segmenter.build import build_sam2, load_sam2_weights
    from rewards.segmenter.cache import FeatureCache
    from rewards.segmenter.features import Features
    from rewards.segmenter.masks import encode_rles, mask_iou, mask_to_clip_size
    from rewards.segmenter.scoring import RequestScorer
    from rewards.segmenter.segmenter import Segmenter

_LAZY = {
    "build_sam2": "build",
    "load_sam2_weights": "build",
    "FeatureCache": "cache",
    "Features": "features",
    "encode_rles": "masks",
    "mask_iou": "masks",
    "mask_to_clip_size": "masks",
    "RequestScorer": "scoring",
    "Segmenter": "segmenter",
}

__all__ = [
    "PRESETS",
    "BoxRequest",
    "BoxScores",
    "FeatureCache",
    "Features",
    "MaskRequest",
    "MaskScores",
    "PointRequest",
    "PropagateRequest",
    "PropagatedMasks",
    "Request",
    "RequestScorer",
    "Scores",
    "SegRequest",
    "Segmenter",
    "SegmenterConfig",
    "build_sam2",
    "encode_rles",
    "load_sam2_weights",
    "mask_iou",
    "mask_to_clip_size",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
