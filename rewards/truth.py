"""Ground truth of a sample, for rewards, losses and held-out scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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


def legible_frames(sample: Sample) -> NDArray[np.uint8]:
    """(T,) 1 where what the expression names can be told; an expression without a target has no such frame.

    Raises:
        DataError: the data set does not say which frames these are.
    """
    found = np.zeros(sample.clip.num_frames, dtype=np.uint8)
    found[list(sample.expression.legible)] = 1
    if sample.expression.anno_ids and not found.any():
        raise DataError(
            f"{sample.id}: its data set does not say in which frames the target is legible; set "
            "rewards.existence=visible, or train on one that does (videoseg data synthetic --world badges)"
        )
    return found
