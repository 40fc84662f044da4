"""Ground truth of a sample, for rewards, losses and held-out scores."""

from __future__ import annotations

from rollout.errors import DataError
from rollout.types import Masklets, Sample


def truth(sample: Sample) -> Masklets:
    """The sample's masklets; those of an expression without a target are empty.

    Raises:
        DataError: its split has no masks, so what is predicted cannot be scored.
    """
    if sample.masklets is None:
        raise DataError(f"{sample.id}: its split has no masks to score against; name one that has")
    return sample.masklets
