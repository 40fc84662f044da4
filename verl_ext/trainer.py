"""verl's synchronous trainer with the segmenter pool in its step.

One step reads: roll out -> old log-probs and ``[SEG]`` states -> masks and rewards from the pool -> reference ->
advantages -> update -> weights to vLLM and to the pool (DESIGN 1).
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
import transfer_queue as tq
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils import tensordict_utils as tu
from verl.utils.debug import marked_timer

from rollout.types import Sample
from verl_ext.agent_loop_name import AGENT_NAME as AGENT_NAME
from verl_ext.context import active_recipe
from verl_ext.episodes import non_tensor_rows
from verl_ext.held_out import held_out_metrics
from verl_ext.scoring import (
    Rollout,
    episode_from_dict,
    metrics_of,
    propagate_request,
    reward_of,
    seg_request,
    states_by_turn,
)
from verl_ext.seg_batch import rows_without_dummy
from verl_ext.supervise import stop_requested
from verl_ext.workers import SegActorRolloutRefWorker

SEG_FIELDS = ("seg_states", "mask_log_prob", "mask_target")


class VideosegTrainer(PPOTrainerSync):  # type: ignore[misc]
    """Runs inside verl's TaskRunner (:mod:`verl_ext.launch`)."""

    def _build_replay_buffer(self) -> Any:
        buffer = super()._build_replay_buffer()
        buffer.poll_interval = 0.1  # verl's 2 s is half of a small step
        return buffer

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        for role in self.role_worker_mapping:
            self.role_worker_mapping[role] = ray.remote(SegActorRolloutRefWorker)

    def _setup(self) -> None:
        self.recipe = active_recipe()
        self.run_dir = Path(self.recipe.output_dir)
        self.pool = self._build_pool()
        self.last_rollouts: list[Rollout] = []
        super()._setup()

    def _build_pool(self) -> Any:
        from verl_ext.pool import build_pool

        return build_pool(self.recipe)

    # ---- the step -----------------------------------------------------------------------------------------------

    def on_init_end(self) -> None:
        super().on_init_end()
        if self.global_steps > 0:  # resumed: the pool still has the decoder of the policy folder
            self._sync_pool()

    def on_step_end(self) -> None:
        super().on_step_end()
        with marked_timer("update_pool", self.timing_raw):
            self._sync_pool()
        if self.global_steps < self.total_training_steps and stop_requested(self.run_dir):
            self._save_checkpoint()
            self.total_training_steps = self.global_steps  # verl's loop then ends by itself

    def _sync_pool(self) -> None:
        state = self.actor_rollout_wg.decoder_state()[0]
        if state:
            self.pool.load_decoder(state)

    def _compute_old_log_prob(self, batch: Any, metrics: dict[str, Any]) -> Any:
        batch = super()._compute_old_log_prob(batch, metrics)
        with marked_timer("pool", self.timing_raw):
            rollouts = self._score(batch)
            self.last_rollouts = rollouts
            real = [r for r, tag in zip(rollouts, batch.tags, strict=True) if not tag.get("is_padding", False)]
            metrics.update(metrics_of(real))
            self._put_rewards(batch, rollouts)
        return batch

    def _score(self, batch: Any) -> list[Rollout]:
        """``[SEG]`` states -> masks -> rewards, for every row of the batch."""
        fields = ["extra_fields", "sample"]
        has_head = self.pool is not None
        data = tq.kv_batch_get(
            keys=batch.keys, partition_id=batch.partition_id, select_fields=[*fields, *(SEG_FIELDS if has_head else ())]
        )
        samples = [Sample.from_dict(s) for s in non_tensor_rows(data, "sample")]
        episodes = [episode_from_dict(e["episode"]) for e in non_tensor_rows(data, "extra_fields")]
        width = self.pool.prompt_width
        states = [
            states_by_turn(e, s.float().numpy())
            for e, s in zip(episodes, rows_without_dummy(data["seg_states"], width), strict=True)
        ]
        # the reference pass writes the log-prob pass's names again: ours move out of its way at once
        moved = {"old_mask_log_prob": data["mask_log_prob"], "old_mask_target": data["mask_target"]}
        tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=tu.get_tensordict(moved))
        with_turns = [i for i, e in enumerate(episodes) if e.turns]
        answers = self.pool.score([seg_request(samples[i], episodes[i], states[i]) for i in with_turns])
        scores = dict(zip(with_turns, answers, strict=True))
        out = []
        for i, (sample, episode) in enumerate(zip(samples, episodes, strict=True)):
            rewards = reward_of(self.recipe, sample, episode, scores.get(i))
            out.append(Rollout(sample, episode, states[i], rewards, scores.get(i)))
        return out

    def _put_rewards(self, batch: Any, rollouts: list[Rollout]) -> None:
        """The reward at each response's last token, jagged like ``response_mask``."""
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["response_mask"])
        lengths = data["response_mask"].offsets().diff().tolist()
        rows = []
        for length, rollout in zip(lengths, rollouts, strict=True):
            row = torch.zeros(length)
            row[-1] = rollout.rewards["total"]
            rows.append(row)
        scores = torch.nested.as_nested_tensor(rows, layout=torch.jagged)
        tq.kv_batch_put(
            keys=batch.keys, partition_id=batch.partition_id, fields=tu.get_tensordict({"rm_scores": scores})
        )

    # ---- held-out clips -----------------------------------------------------------------------------------------

    def _validate(self) -> dict[str, float]:
        """Greedy dialogues with propagation (J&F) and sampled ones (mean reward), on the recipe's ``val`` data."""
        rollouts: list[Rollout] = []
        greedy: list[bool] = []
        for batch_dict in self.val_dataloader:
            rows = len(batch_dict["raw_prompt"])
            batch_dict["uid"] = np.array([str(uuid.uuid4()) for _ in range(rows)], dtype=object)
            is_greedy = dict(zip(batch_dict["uid"], batch_dict["greedy"], strict=True))
            batch = self._roll_out_held_out(tu.get_tensordict(batch_dict))
            batch = self._balance_batch(batch, metrics={})
            batch.extra_info.update({"calculate_entropy": False, "compute_loss": False, "temperature": 1.0})
            self.actor_rollout_wg.compute_log_prob(batch)
            scored = self._score(batch)
            for key, tag, rollout in zip(batch.keys, batch.tags, scored, strict=True):
                if not tag.get("is_padding", False):
                    rollouts.append(rollout)
                    greedy.append(bool(is_greedy[key.rsplit("_", 2)[0]]))
            tq.kv_clear(keys=batch.keys, partition_id=batch.partition_id)
        firm = [r for r, g in zip(rollouts, greedy, strict=True) if g]
        masks = self.pool.score([propagate_request(r.sample, r.episode, r.states) for r in firm])
        metrics = held_out_metrics(firm, masks)
        metrics.update(metrics_of([r for r, g in zip(rollouts, greedy, strict=True) if not g], prefix="val/"))
        metrics.update(metrics_of(firm, prefix="val/greedy_"))
        self._write_held_out(metrics)
        return metrics

    def _roll_out_held_out(self, batch: Any) -> Any:
        tu.assign_non_tensor_data(batch, "global_steps", self.global_steps)
        tu.assign_non_tensor_data(batch, "validate", True)
        tags = [{"is_prompt": True, "status": "pending", "global_steps": self.global_steps} for _ in range(len(batch))]
        tq.kv_batch_put(keys=list(batch["uid"]), partition_id="val", tags=tags)
        self.agent_loop_manager.generate_sequences(batch)
        found, _ = self.replay_buffer.sample(global_steps=self.global_steps, partition_id="val", batch_size=len(batch))
        return found

    def _write_held_out(self, metrics: dict[str, float]) -> None:
        path = self.run_dir / "held_out.jsonl"
        with path.open("a") as f:
            f.write(json.dumps({"step": self.global_steps, **metrics}) + "\n")

    # ---- saving -------------------------------------------------------------------------------------------------

    def _save_checkpoint(self) -> None:
        super()._save_checkpoint()
        folder = Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}" / "policy"
        self.actor_rollout_wg.export_policy(str(folder))
