"""One torchrun process of supervised training (``python -m verl_ext.sft_worker``)."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from verl.trainer.sft_trainer import SFTTrainer
from verl.utils.device import auto_set_device, get_device_name

from verl_ext.context import active_recipe
from verl_ext.plugin import register_engine
from verl_ext.policy.export import export_policy
from verl_ext.render import sft_config
from verl_ext.sft import POLICY_FOLDER
from verl_ext.sft_loss import supervised_loss
from verl_ext.supervise import STOPPED_EARLY, stop_requested


class SegSFTTrainer(SFTTrainer):  # type: ignore[misc]
    """verl's trainer with our loss; writes a policy folder at the end."""

    def _build_engine(self) -> None:
        super()._build_engine()
        weights = active_recipe().sft_loss
        self.loss_fn = partial(supervised_loss, config=None, mask_ce=weights.mask_ce, dice=weights.dice)
        self.training_client.set_loss_fn(self.loss_fn)

    def _get_batch_seqlens(self, data: Any) -> list[int]:
        """verl calls this before each step: the place to save and leave when asked to."""
        self._begun = getattr(self, "_begun", -1) + 1
        if self._begun > 0 and stop_requested(active_recipe().output_dir):
            self.ckpt_handler.save_checkpoint(step=self.resume_global_step + self._begun)
            sys.exit(STOPPED_EARLY)
        return super()._get_batch_seqlens(data)  # type: ignore[no-any-return]


def main() -> None:
    recipe = active_recipe()
    register_engine()
    config = sft_config(recipe)
    auto_set_device(config)
    torch.distributed.init_process_group("gloo" if get_device_name() == "cpu" else "nccl")
    torch.manual_seed(recipe.seed)
    trainer = SegSFTTrainer(config=config)
    trainer.fit()
    export_policy(trainer.engine, Path(recipe.output_dir) / POLICY_FOLDER)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
