"""Reinforcement-learning prompts, read by the same readers as everything else.

verl instantiates the class itself (``data.custom_cls``); what to read comes from the recipe. A row carries the clip by
reference (paths) and the masks as RLE; no pixel leaves the disk here.
"""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset

from rollout.orphans import die_with_loader
from verl_ext.inference.agent_loop_name import AGENT_NAME
from verl_ext.recipe.context import active_recipe
from verl_ext.run.sources import load_samples


class RLDataset(Dataset):  # type: ignore[misc]
    """Rows for verl's rollout: ``raw_prompt``, ``index``, ``agent_name`` and our ``sample``.

    Held-out rows come twice: once decoded greedily (J&F by propagation; unless ``trainer.eval_greedy`` is off) and once
    sampled, ``trainer.eval_draws`` times (the mean reward).
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
        self._greedy = len(self.samples) if self.held_out and recipe.trainer.eval_greedy else 0
        self._draws = recipe.trainer.eval_draws

    def __len__(self) -> int:
        return self._greedy + len(self.samples)

    def __getitem__(self, i: int) -> dict[str, Any]:
        die_with_loader()
        greedy = i < self._greedy
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
            row["__rollout_n__"] = 1 if greedy else self._draws
        return row
