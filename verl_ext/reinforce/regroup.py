"""Whole groups to processes: after verl's balancing, which deals out single sequences."""

from __future__ import annotations

from typing import Any

import torch
import transfer_queue as tq

from verl_ext.packing.deal import order_by_group


def regroup(batch: Any, cells: int, image_token: int) -> None:
    """Reorder ``batch``, in place: each of ``cells`` neighbouring shares holds whole groups, of about the same cost.

    A cost is a prompt and its responses in tokens, image tokens twice: their patches in the vision tower take about as
    long as they do in the language model. An incomplete group is one like others; verl's padding fills what is left.

    Args:
        batch: verl's KVBatchMeta; keys are ``{uid}_{session}_{index}``.
        cells: processes times mini-batches.
    """
    if cells < 2 or len(batch.keys) % cells:
        return
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["prompts", "responses"])
    shared, own = (_costs(data[name], image_token) for name in ("prompts", "responses"))
    groups = [
        "" if tag.get("is_padding", False) else key.rsplit("_", 2)[0]
        for key, tag in zip(batch.keys, batch.tags, strict=True)
    ]
    batch.reorder(order_by_group(groups, own, shared, cells))


def _costs(jagged: torch.Tensor, image_token: int) -> list[float]:
    return [len(ids) + float((ids == image_token).sum()) for ids in jagged.unbind()]
