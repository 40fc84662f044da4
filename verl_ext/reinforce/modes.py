"""The trainers by ``trainer.mode``: verl's three, each with our step."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from verl.trainer.ppo.v1 import trainer_separate_async
from verl.trainer.ppo.v1.trainer_colocate_async import PPOTrainerColocateAsync
from verl.trainer.ppo.v1.trainer_separate_async import PPOTrainerSeparateAsync
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from verl_ext.engine.workers import SegActorWorker
from verl_ext.reinforce.ahead import RunsAhead
from verl_ext.reinforce.trainer import VideosegStep


class VideosegTrainer(VideosegStep, PPOTrainerSync):  # type: ignore[misc]
    """Rolls out, then trains, in turn."""


class ColocateAsyncTrainer(RunsAhead, VideosegStep, PPOTrainerColocateAsync):  # type: ignore[misc]
    """Rolls out and trains in turn on the same GPUs; dialogues that are not done are interrupted meanwhile."""

    def let_go(self) -> None:
        self.checkpoint_manager.abort_replicas()

    @contextmanager
    def rollout_makes_room(self) -> Iterator[None]:
        """Training's dialogues are under way beside the held-out ones: an engine that shall sleep must not get more."""
        if self.recipe.device == "cuda":
            self.checkpoint_manager.abort_replicas()
        with super().rollout_makes_room():
            yield
        if self.recipe.device == "cuda":
            self.checkpoint_manager.resume_generation_replicas()


class SeparateAsyncTrainer(RunsAhead, VideosegStep, PPOTrainerSeparateAsync):  # type: ignore[misc]
    """Rolls out on GPUs of its own, all the time but for a sync of weights."""

    worker_class = SegActorWorker

    def _setup(self) -> None:
        # verl 0.9.1 says there that the actor's GPUs have no vLLM, with an argument that logging does not know
        quiet = logging.getLogger(trainer_separate_async.__name__)
        before = quiet.level
        quiet.setLevel(logging.WARNING)
        try:
            super()._setup()
        finally:
            quiet.setLevel(before)

    def let_go(self) -> None:
        self.standalone_checkpoint_manager.abort_replicas()


TRAINERS: dict[str, Any] = {
    "sync": VideosegTrainer,
    "colocate_async": ColocateAsyncTrainer,
    "separate_async": SeparateAsyncTrainer,
}
