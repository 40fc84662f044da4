"""Reinforcement-learning prompts, read by the same readers as everything else.

verl instantiates the class itself (``data.custom_cls``); what to read comes from the recipe. A row carries the clip by
reference (paths) and the masks as RLE; no pixel leaves the disk here.
"""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset

from verl_ext.agent_loop_name import AGENT_NAME
from verl_ext.context import active_recipe
from verl_ext.sources import load_samples

HELD_OUT_DRAWS = 4
"""Sampled dialogues of a held-out prompt, averaged: less noise in the mean reward than one."""


class RLDataset(Dataset):  # type: ignore[misc]
    """Rows for verl's rollout: ``raw_prompt``, ``index``, ``agent_name`` and our ``sample``.

    Held-out rows come twice: once decoded greedily (J&F by propagation) and once sampled (the mean reward).
    """

    def __init__(
        self,
        data_files: Any = None,
        tokenizer: Any = None,
        processor: Any = None,
        config: Any = None,
        max_samples: int = -1,
    ) -> None:
        recipe = active_recipe()
        self.held_out = list(data_files or []) == ["held_out"]
        if self.held_out and not recipe.trainer.eval_every:
            self.samples = load_samples(recipe)[:1]  # verl wants a loader also for what is never evaluated
        else:
            self.samples = load_samples(recipe, self.held_out)

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
            row["__rollout_n__"] = 1 if greedy else HELD_OUT_DRAWS
        return row
