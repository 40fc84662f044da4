"""One torchrun process of supervised training (``python -m verl_ext.sft_worker``)."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import verl.trainer.sft_trainer as verl_sft
from omegaconf import open_dict
from verl.trainer.sft_trainer import SFTTrainer
from verl.utils.device import auto_set_device, get_device_id, get_device_name

from rollout.errors import DataError
from verl_ext.checkpoints import POLICY_FOLDER, remove_old
from verl_ext.context import active_recipe
from verl_ext.plugin import register_engine
from verl_ext.policy.export import export_policy
from verl_ext.render import sft_config
from verl_ext.run_files import announce_total, stop_requested
from verl_ext.sft_loss import supervised_loss
from verl_ext.supervise import STOPPED_EARLY
from verl_ext.workers import SegTrainingWorker


class SegSFTTrainer(SFTTrainer):  # type: ignore[misc]
    """verl's trainer with our loss, the recipe's order of data, and an orderly end on request."""

    stopped_early = False
    total_training_steps: int
    resume_global_step: int

    def _build_engine(self) -> None:
        with patch.object(verl_sft, "TrainingWorker", SegTrainingWorker):
            super()._build_engine()
        weights = active_recipe().sft_loss
        self.loss_fn = partial(
            supervised_loss, config=None, lm=weights.lm, mask_ce=weights.mask_ce, dice=weights.dice
        )
        self.training_client.set_loss_fn(self.loss_fn)

    def _build_dataloader(self) -> None:
        super()._build_dataloader()
        recipe = active_recipe()
        # verl 0.9.1 always shuffles, with seed 0; the sampler reads both at the start of each epoch
        self.train_sampler.shuffle, self.train_sampler.seed = recipe.trainer.shuffle, recipe.seed
        for section, data, loader in (
            ("data", self.train_dataset, self.train_dataloader),
            ("val", self.val_dataset, self.val_dataloader),
        ):
            if loader is not None and len(loader) == 0:
                raise DataError(
                    f"{section}: {len(data)} conversations do not fill one step of trainer.prompts_per_step "
                    f"{recipe.trainer.prompts_per_step}; lower it, or name more data"
                )

    def _init_engine(self) -> None:
        """Ends with the data's last epoch, where verl would leave its loop without saving."""
        trainer = self.config.trainer
        possible = len(self.train_dataloader) * trainer.total_epochs
        with open_dict(self.config):
            trainer.total_training_steps = min(trainer.total_training_steps or possible, possible)
        if torch.distributed.get_rank() == 0:
            announce_total(active_recipe().output_dir, trainer.total_training_steps)
        super()._init_engine()

    def fit(self) -> None:
        """Nothing is left to do for a run that is continued after its last step (verl would take one more)."""
        if self.resume_global_step < self.total_training_steps:
            super().fit()

    def _get_batch_seqlens(self, data: Any) -> list[int]:
        """verl calls this before each step: asked to stop, it makes this step the last one, which saves."""
        self._begun = getattr(self, "_begun", 0) + 1
        step = self.resume_global_step + self._begun
        if step < self.total_training_steps and self._stop_is_requested():
            self.total_training_steps, self.stopped_early = step, True
        return super()._get_batch_seqlens(data)  # type: ignore[no-any-return]

    def _stop_is_requested(self) -> bool:
        """What rank 0 sees: ranks that end at different steps would wait for each other."""
        flag = torch.tensor(int(stop_requested(active_recipe().output_dir)), device=get_device_id())
        torch.distributed.broadcast(flag, src=0)
        return bool(flag.item())


def main() -> int:
    recipe = active_recipe()
    register_engine()
    config = sft_config(recipe)
    auto_set_device(config)
    torch.distributed.init_process_group("gloo" if get_device_name() == "cpu" else "nccl")
    torch.manual_seed(recipe.seed)
    trainer = SegSFTTrainer(config=config)
    trainer.fit()
    if not trainer.stopped_early:
        export_policy(trainer.engine, Path(recipe.output_dir) / POLICY_FOLDER)
    if torch.distributed.get_rank() == 0:
        remove_old(Path(recipe.output_dir), recipe.trainer.keep_checkpoints)
    torch.distributed.destroy_process_group()
    by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ  # it takes any other code for a failure
    return STOPPED_EARLY if trainer.stopped_early and not by_torchrun else 0


if __name__ == "__main__":
    sys.exit(main())
