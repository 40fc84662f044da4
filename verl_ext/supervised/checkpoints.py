"""Checkpoints of supervised training: verl's own, with a policy in each of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from verl.utils.checkpoint import CheckpointHandler

from verl_ext.policy.export import export_policy
from verl_ext.recipe.context import active_recipe
from verl_ext.run.checkpoints import POLICY_FOLDER, link_newest_policy, remove_old, step_folder


class PolicyCheckpoints(CheckpointHandler):  # type: ignore[misc]
    """Saves and loads as verl does; ``output_dir/policy`` always is the policy of the newest checkpoint."""

    def save_checkpoint(self, step: int) -> None:
        super().save_checkpoint(step)
        self._export(step)

    def load_checkpoint(self) -> int:
        """The step that was loaded, 0 without a checkpoint."""
        step = int(super().load_checkpoint())
        if step and not (self._policy_folder(step) / "config.json").is_file():  # died between saving and exporting
            self._export(step)
        return step

    def _load_dataloader_state(self, checkpoint_path: str) -> None:
        """The place in the data, whatever number of processes had shares of it.

        A loader that was saved after an epoch's last step would give nothing, and verl go on to the next epoch.
        """
        steps = self.resume_global_step % len(self.train_dataloader)
        if not steps:
            return
        own = Path(checkpoint_path) / f"data_{self.dp_rank}.pt"
        file = own if own.is_file() else own.with_name("data_0.pt")  # all hold the same but for their worker's seeds
        if not file.is_file():
            super()._load_dataloader_state(checkpoint_path)  # says so
            return
        saved = torch.load(file, map_location="cpu", weights_only=False)
        self.train_dataloader.load_state_dict(_at_sample(saved, steps * self.train_dataloader.batch_size))

    def _policy_folder(self, step: int) -> Path:
        return step_folder(Path(active_recipe().output_dir), step) / POLICY_FOLDER

    def _export(self, step: int) -> None:
        """A collective call; the first process writes."""
        recipe = active_recipe()
        export_policy(self.engine, self._policy_folder(step))
        if self.rank == 0:
            link_newest_policy(Path(recipe.output_dir))
            remove_old(Path(recipe.output_dir), recipe.trainer.keep_checkpoints)


def _at_sample(state: Any, samples: int) -> Any:
    """A stateful loader's state with ``samples`` of its sampler used: a share of a step may be another one now."""
    if not isinstance(state, dict):
        return state
    return {k: samples if k == "samples_yielded" else _at_sample(v, samples) for k, v in state.items()}
