"""Checkpoints of supervised training: verl's own, with a policy in each of them."""

from __future__ import annotations

from pathlib import Path

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
        """A loader that was saved after an epoch's last step would give nothing, and verl go on to the next epoch."""
        if self.resume_global_step % len(self.train_dataloader):
            super()._load_dataloader_state(checkpoint_path)

    def _policy_folder(self, step: int) -> Path:
        return step_folder(Path(active_recipe().output_dir), step) / POLICY_FOLDER

    def _export(self, step: int) -> None:
        """A collective call; the first process writes."""
        recipe = active_recipe()
        export_policy(self.engine, self._policy_folder(step))
        if self.rank == 0:
            link_newest_policy(Path(recipe.output_dir))
            remove_old(Path(recipe.output_dir), recipe.trainer.keep_checkpoints)
