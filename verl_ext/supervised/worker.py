"""One torchrun process of supervised training (``python -m verl_ext.supervised.worker``)."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import verl.trainer.sft_trainer as verl_sft
from omegaconf import open_dict
from verl.trainer.sft_trainer import SFTTrainer
from verl.utils.device import auto_set_device, get_device_id, get_device_name

from rollout.errors import DataError, WorkerError
from verl_ext.engine.workers import SegTrainingWorker
from verl_ext.objective.sft_loss import supervised_loss
from verl_ext.plugin import register_engine
from verl_ext.recipe.context import active_recipe
from verl_ext.run.run_files import announce_total, stop_requested, write_result
from verl_ext.run.verl_config import sft_config
from verl_ext.supervised.checkpoints import PolicyCheckpoints
from verl_ext.supervised.unreadable import HeldOutBatches, check_step

logger = logging.getLogger(__name__)


class SegSFTTrainer(SFTTrainer):  # type: ignore[misc]
    """verl's trainer with our loss and checkpoints, the recipe's order of data, and an orderly end on request."""

    stopped_early = False
    total_training_steps: int
    resume_global_step: int
    val_dataloader: Any
    _begun = 0

    def _build_engine(self) -> None:
        with patch.object(verl_sft, "TrainingWorker", SegTrainingWorker):
            super()._build_engine()
        weights = active_recipe().sft_loss
        self.loss_fn = partial(supervised_loss, config=None, lm=weights.lm, mask_ce=weights.mask_ce, dice=weights.dice)
        self.training_client.set_loss_fn(self.loss_fn)

    def _build_ckpt_handler(self) -> None:
        with patch.object(verl_sft, "CheckpointHandler", PolicyCheckpoints):
            super()._build_ckpt_handler()

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
        if self.val_dataloader is not None:
            _tell_what_is_evaluated(len(self.val_dataset), len(self.val_dataloader), recipe.trainer.prompts_per_step)
            group = self.engine.get_data_parallel_group()
            self.val_dataloader = HeldOutBatches(self.val_dataloader, group, get_device_id())

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
        """Nothing is left to do for a run that is continued after its last step (verl would take one more).

        Raises:
            WorkerError: verl left its loop before the last step, so that what was learnt since the last save is lost.
        """
        if self.resume_global_step >= self.total_training_steps:
            return
        super().fit()
        reached = self.resume_global_step + self._begun
        if reached < self.total_training_steps:
            raise WorkerError(
                f"supervised training ended after step {reached} of {self.total_training_steps}: the data gave no more "
                "batches. Continue it with --resume"
            )

    def _get_batch_seqlens(self, data: Any) -> list[int]:
        """verl calls this before each step: asked to stop, it makes this step the last one, which saves.

        Raises:
            WorkerError: too many of the step's conversations cannot be read.
        """
        self._begun += 1
        step = self.resume_global_step + self._begun
        group = self.engine.get_data_parallel_group()
        check_step(data, Path(active_recipe().output_dir), step, group, get_device_id())
        if step < self.total_training_steps and self._stop_is_requested():
            self.total_training_steps, self.stopped_early = step, True
        return super()._get_batch_seqlens(data)  # type: ignore[no-any-return]

    def _stop_is_requested(self) -> bool:
        """What rank 0 sees: ranks that end at different steps would wait for each other."""
        flag = torch.tensor(int(stop_requested(active_recipe().output_dir)), device=get_device_id())
        torch.distributed.broadcast(flag, src=0)
        return bool(flag.item())


def _tell_what_is_evaluated(conversations: int, batches: int, batch: int) -> None:
    """verl evaluates whole batches; what is left over is said rather than lost in silence."""
    evaluated = min(conversations, batches * batch)
    if evaluated < conversations:
        logger.warning(
            "val: the first %d of %d conversations are evaluated, whole steps of trainer.prompts_per_step %d; set "
            "trainer.eval_samples to a multiple of it to choose which",
            evaluated,
            conversations,
            batch,
        )


def main() -> None:
    recipe = active_recipe()
    register_engine()
    config = sft_config(recipe)
    auto_set_device(config)
    torch.distributed.init_process_group("gloo" if get_device_name() == "cpu" else "nccl")
    torch.manual_seed(recipe.seed)
    trainer = SegSFTTrainer(config=config)
    trainer.fit()
    if torch.distributed.get_rank() == 0:
        write_result(recipe.output_dir, finished=not trainer.stopped_early)
    torch.distributed.barrier()  # no process has ended before the result is there: further machines read it
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
