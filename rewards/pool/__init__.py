"""The segmenter in processes of its own: Ray actors that score requests and survive being killed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewards.pool.pool import SegmenterPool

__all__ = ["SegmenterPool"]


def __getattr__(name: str) -> Any:
    if name != "SegmenterPool":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rewards.pool.pool import SegmenterPool

    return SegmenterPool
