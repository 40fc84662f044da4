"""The trainer's part in credit by part: what its ``[SEG]`` tokens are credited with (`verl_ext.objective.credit`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transfer_queue as tq
from verl.utils import tensordict_utils as tu

from verl_ext.objective.credit import credit_by_part, response_positions
from verl_ext.seg.batch import row_lengths
from verl_ext.seg.episodes import non_tensor_rows

if TYPE_CHECKING:
    from verl_ext.recipe import Recipe


class CreditsByPart:
    """Mixed into verl's trainer, before it and behind whoever looks at finished advantages."""

    recipe: Recipe
    _mask_rewards: dict[str, float]
    """Of each row of the batch, the weighted sum of its mask rewards."""

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        batch = super()._compute_advantage(batch, metrics)  # type: ignore[misc]
        if self.recipe.objective.credit == "by_part":
            self._credit_by_part(batch)
        return batch

    def _credit_by_part(self, batch: Any) -> None:
        """Write the advantages once more, those of ``[SEG]`` tokens from the mask rewards alone."""
        wanted = ["advantages", "uid", "prompts", "extra_fields"]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=wanted)
        prompts = row_lengths(data["prompts"]).tolist()
        episodes = [e["episode"] for e in non_tensor_rows(data, "extra_fields")]
        rows = credit_by_part(
            data["advantages"].unbind(),
            response_positions(episodes, prompts),
            torch.tensor([self._mask_rewards[key] for key in batch.keys]),
            torch.from_numpy(np.unique([str(u) for u in non_tensor_rows(data, "uid")], return_inverse=True)[1]),
            self.recipe.objective.advantage_eps,
        )
        fields = tu.get_tensordict({"advantages": torch.nested.as_nested_tensor(rows, layout=torch.jagged)})
        tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)
