"""The trainer's part in rolling out ahead of training: how many prompts are under way, and which a step may take.

A dialogue that raised costs itself alone, as in ``sync``: verl's own queue would throw its whole group away, give out
another prompt, and go on so for ever where every dialogue fails.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import transfer_queue as tq
from verl.trainer.ppo.v1.replay_buffer import ReplayBufferAsync
from verl.trainer.ppo.v1.trainer_base import PPOTrainer

NO_DIALOGUES = "no materializable trajectories"
"""verl's words (0.9.1, of its synchronous queue) for a batch of which every dialogue failed."""


class GroupsAsTheyEnd(ReplayBufferAsync):  # type: ignore[misc]
    """Hands out groups whose dialogues have ended, those that failed missing, the oldest first."""

    step_size = 0
    """Prompts of one step."""
    later = 0
    """Of these, how many are taken from the queue after the batch that is asked for now."""

    def _has_enough_samples(self, global_steps: int, partition_id: str, batch_size: int, sampleable: set[str]) -> bool:
        """With ``wait``: whether nothing gets too old if the oldest of ``sampleable`` are taken now.

        A prompt of step p is due in step p + the allowed age. verl (0.9.1) waits for those that are due now, and of
        these more may have come together, while younger ones were taken, than a step takes. So here whatever is due by
        a step must fit into the steps until then.
        """
        if len(sampleable) < batch_size or partition_id == "val" or self.max_off_policy_strategy != "wait":
            return len(sampleable) >= batch_size
        if not (self.pending_keys[partition_id] or self.running_keys[partition_id]):
            return True
        given_out, most = self.prompt_global_steps[partition_id], self.max_off_policy_threshold - 1
        left = Counter(given_out.values())
        left.subtract(sorted(given_out[key] for key in sampleable)[:batch_size])
        return all(
            sum(count for step, count in left.items() if step + most <= due)
            <= self.later + self.step_size * (due - global_steps)
            for due in range(global_steps, global_steps + most + 1)
        )

    def _stale_terminal_keys(self, global_steps: int, partition_id: str) -> set[str]:
        """verl's, of groups with a failed dialogue too."""
        finished = self.finished_keys[partition_id]
        self.finished_keys[partition_id] = finished | self.failure_keys[partition_id]
        try:
            return super()._stale_terminal_keys(global_steps, partition_id)  # type: ignore[no-any-return]
        finally:
            self.finished_keys[partition_id] = finished

    def _terminal_eviction_reasons(
        self, global_steps: int, partition_id: str
    ) -> tuple[set[str], set[str], set[str], Counter[Any]]:
        stale, filtered, _failed, counts = super()._terminal_eviction_reasons(global_steps, partition_id)
        return stale, filtered, set(), counts

    def _materialize_batch(self, partition_id: str, selected: list[str], snapshot: dict[str, dict[str, Any]]) -> Any:
        batch = super()._materialize_batch(partition_id, selected, snapshot)
        if not batch.keys and partition_id != "val":
            raise RuntimeError(f"the queue holds {NO_DIALOGUES} of {len(selected)} prompts")
        return batch


class RunsAhead(PPOTrainer):  # type: ignore[misc]
    """Comes before our step and an asynchronous trainer of verl's."""

    def _build_replay_buffer(self) -> Any:
        with_name = self.config.trainer.v1.sampler.custom_sampler
        with_name.path, with_name.name = f"pkg://{__name__}", GroupsAsTheyEnd.__name__
        return super()._build_replay_buffer()

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        forget_learnt()

    def on_sample_begin(self) -> None:
        super().on_sample_begin()
        size, updates = int(self.config.data.train_batch_size), int(self.parameter_sync_step)
        self.replay_buffer.step_size = size
        self.replay_buffer.later = size // updates * (updates - 1 - self.local_trigger_step)

    def prepare_step(self) -> dict[str, Any]:
        """Give out a step's worth of prompts, or as many as the run's last steps still want.

        As verl's, which rolls out to the end for steps that never come.
        """
        size = int(self.config.data.train_batch_size)
        wanted = size * (self.total_training_steps - self.global_steps + 1) - prompts_under_way()
        if wanted > 0:
            self._add_prompts_to_generate(min(size, wanted))
        return {}

    def _add_async_warmup_batches(self, num_warmup_batches: float) -> None:
        later = self.total_training_steps - self.global_steps
        super()._add_async_warmup_batches(min(num_warmup_batches, later))


def prompts_under_way() -> int:
    """Prompts that were given out and that no step has taken."""
    return sum(bool(tag.get("is_prompt")) for tag in (tq.kv_list("train") or {}).get("train", {}).values())


def forget_learnt() -> None:
    """Drop dialogues that the checkpoint's own step learnt from: verl saves before it clears them."""
    tags = (tq.kv_list("train") or {}).get("train", {})
    prompts = {key for key, tag in tags.items() if tag.get("is_prompt")}
    learnt = [key for key in tags if key not in prompts and key.split("_")[0] not in prompts]
    if learnt:
        tq.kv_clear(keys=learnt, partition_id="train")
