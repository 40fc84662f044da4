"""Which pictures the dialogues of verl's batches show."""

from __future__ import annotations

from typing import Any

from rollout.pictures import Picture
from rollout.types import Sample
from verl_ext.policy.pictures import pictures_of
from verl_ext.seg.episodes import non_tensor_rows


def batch_pictures(batch: Any) -> list[list[Picture]]:
    """What each dialogue of a batch shows; batches that carry pixels themselves show nothing here."""
    if "multi_modal_inputs" not in batch.keys():  # noqa: SIM118 - a TensorDict
        return []
    samples = [Sample.from_dict(row) for row in non_tensor_rows(batch, "sample")]
    inputs = non_tensor_rows(batch, "multi_modal_inputs")
    return [pictures_of(sample, row) for sample, row in zip(samples, inputs, strict=True)]
