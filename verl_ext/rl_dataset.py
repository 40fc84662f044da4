"""Reinforcement-learning prompts, read by the same readers as everything else.

verl instantiates the class itself (``data.custom_cls``); what to read comes from the recipe. A row carries the clip by
reference (paths) and the masks as RLE; no pixel leaves the disk here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import Dataset

from rollout.errors import DataError
from rollout.types import Sample
from verl_ext.agent_loop_name import AGENT_NAME
from verl_ext.context import active_recipe

if TYPE_CHECKING:
    from verl_ext.recipe import DataSource, Recipe


class RLDataset(Dataset):  # type: ignore[misc]
    """Rows for verl's rollout: ``raw_prompt``, ``index``, ``agent_name`` and our ``sample``.

    Held-out rows come twice: once decoded greedily (J&F by propagation) and once sampled (the mean reward).
    """

    def __init__(
        self, data_files: Any = None, tokenizer: Any = None, processor: Any = None, config: Any = None, max_samples: int = -1
    ) -> None:
        recipe = active_recipe()
        self.held_out = str(data_files) == "held_out" or data_files == ["held_out"]
        sources = recipe.val if self.held_out else recipe.data
        limit = recipe.trainer.eval_samples if self.held_out else None
        self.samples = load_samples(recipe, sources, limit)
        if not self.samples:
            raise DataError(f"no expressions in {[f'{s.root} ({s.split})' for s in sources]}: nothing to train on")

    def __len__(self) -> int:
        return len(self.samples) * (2 if self.held_out else 1)

    def __getitem__(self, i: int) -> dict[str, Any]:
        greedy = self.held_out and i < len(self.samples)
        sample = self.samples[i % len(self.samples)]
        row = {
            "raw_prompt": [{"role": "user", "content": sample.expression.text}],
            "index": i,
            "data_source": sample.expression.kind or "all",
            "agent_name": AGENT_NAME,
            "reward_model": {"style": "pool", "ground_truth": sample.id},
            "sample": sample.to_dict(),
            "held_out": self.held_out,
            "greedy": greedy,
        }
        if self.held_out:
            row["__rollout_n__"] = 1
        return row


def load_samples(recipe: Recipe, sources: list[DataSource], limit: int | None = None) -> list[Sample]:
    """The recipe's samples in a fixed order; ``limit`` draws that many, the same ones for the same seed.

    Expressions without a target are kept unless the method cannot use them (Veason-R1 skips them, SPEC 3).
    """
    from data_construction.readers import open_dataset

    out: list[Sample] = []
    for source in sources:
        dataset = open_dataset(source.dataset, Path(source.root), source.split)
        found = [s for s in dataset.samples() if not source.kinds or s.expression.kind in source.kinds]
        if recipe.method == "veason_r1":
            found = [s for s in found if s.expression.anno_ids]
        out.extend(found[: source.max_samples] if source.max_samples else found)
    if limit is not None and limit < len(out):
        chosen = np.random.default_rng(recipe.seed).permutation(len(out))[:limit]
        out = [out[i] for i in sorted(chosen)]
    return out
