"""Cure for a bug of verl 0.9.1 with transformers 5: a micro-batch of Qwen2.5-VL that shows no picture raises.

verl then runs the vision tower over zeros, so that all processes gather the same shards, and adds nothing times the
mean of what it returns; with transformers 5 that is an object and no tensor. Rows without pictures are ordinary: copies
that fill a batch up, and a first message that did not fit. ``tests/verl_ext/engine/test_text_only_rows.py`` fails once
upstream is cured. The passes over rows (``policy.packing: group``, ``packed``) call the tower themselves.
"""

from __future__ import annotations

from typing import Any

import verl.models.transformers.qwen2_vl as qwen2_vl
from verl.utils.transformers_compat import unpack_visual_output

stock_input_embeds = qwen2_vl._get_input_embeds


def cure_text_only_rows() -> None:
    """From now on Qwen2-VL and Qwen2.5-VL of this process take micro-batches without pictures."""
    qwen2_vl._get_input_embeds = _input_embeds


def _input_embeds(
    model: Any,
    input_ids: Any,
    attention_mask: Any = None,
    pixel_values: Any = None,
    pixel_values_videos: Any = None,
    *grids: Any,
    **more: Any,
) -> Any:
    shows = pixel_values is not None or pixel_values_videos is not None
    called = model if shows else _PlainTower(model)
    return stock_input_embeds(called, input_ids, attention_mask, pixel_values, pixel_values_videos, *grids, **more)


class _PlainTower:
    """The model, but its vision tower returns the pictures' features alone, as transformers 4 did."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def visual(self, *args: Any, **kwargs: Any) -> Any:
        return unpack_visual_output(self._model.visual(*args, **kwargs))[0]
