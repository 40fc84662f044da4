"""Samples and episodes out of verl's batches, whatever container carried them."""

from __future__ import annotations

from typing import Any

from rollout.types import Sample


def micro_batch_episodes(micro_batch: Any) -> tuple[list[Sample], list[dict[str, Any]]]:
    """Samples and episodes of a micro-batch: RL carries the episode in ``extra_fields``, supervised data beside it."""
    samples = [Sample.from_dict(s) for s in non_tensor_rows(micro_batch, "sample")]
    if "episode" in micro_batch.keys():  # noqa: SIM118
        return samples, non_tensor_rows(micro_batch, "episode")
    return samples, [e["episode"] for e in non_tensor_rows(micro_batch, "extra_fields")]


def non_tensor_rows(data: Any, key: str) -> list[Any]:
    """One Python object per row of a non-tensor column, whatever container carried it."""
    return [row if isinstance(row, dict) else getattr(row, "data", row) for row in data[key]]
