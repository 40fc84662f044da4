"""``text_hidden_fcs`` away from the policy: hidden ``[SEG]`` states become prompts where masks are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rollout.errors import WorkerError
from verl_ext.policy.head import PROJECTION_PREFIX, build_projection


class Projection:
    """(d,) hidden state -> (C,) state, float32 on the CPU, with the weights that were loaded last."""

    def __init__(self) -> None:
        self._layers: torch.nn.Sequential | None = None

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        """By their names in the policy. Takes effect at once, for whichever thread."""
        own = {name.removeprefix(PROJECTION_PREFIX): tensor.float() for name, tensor in weights.items()}
        layers = build_projection(own["0.weight"].shape[0], own["2.weight"].shape[0])
        layers.load_state_dict(own)
        self._layers = layers.requires_grad_(False)

    def __call__(self, hidden: NDArray[Any]) -> NDArray[np.float32]:
        """Raises WorkerError before the first :meth:`load`."""
        if self._layers is None:
            raise WorkerError("a mask was asked for before the policy's [SEG] projection was known")
        with torch.inference_mode():
            out: NDArray[np.float32] = self._layers(torch.from_numpy(np.asarray(hidden, dtype=np.float32))).numpy()
        return out
