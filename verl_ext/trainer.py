"""verl's synchronous trainer with the segmenter pool in its step.

One step reads: roll out -> old log-probs and ``[SEG]`` states -> masks and rewards from the pool -> reference ->
advantages -> update -> weights to vLLM and to the pool (DESIGN 1).
"""

from __future__ import annotations

import json
import logging
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
import transfer_queue as tq
from omegaconf import open_dict
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils import tensordict_utils as tu
from verl.utils.debug import marked_timer

from rollout.errors import DataError
from rollout.types import Sample
from verl_ext.checkpoints import POLICY_FOLDER, link_newest_policy, remove_old
from verl_ext.context import active_recipe
from verl_ext.episodes import non_tensor_rows
from verl_ext.held_out import forget_after, held_out_metrics
from verl_ext.run_files import announce_total, stop_requested
from verl_ext.scoring import Rollout, episode_from_dict, metrics_of, predict_masks, recipe_scoring, score_rollouts
from verl_ext.seg_batch import row_lengths
from verl_ext.workers import SegActorRolloutRefWorker

logger = logging.getLogger(__name__)

HELD_OUT = "held_out.jsonl"
"""In ``output_dir``: one line an evaluation."""


class VideosegTrainer(PPOTrainerSync):  # type: ignore[misc]
    """Runs inside verl's TaskRunner (:mod:`verl_ext.launch`)."""

    total_training_steps: int

    _validating = False
    _saved_at = -1

    def _build_replay_buffer(self) -> Any:
        buffer = super()._build_replay_buffer()
        buffer.poll_interval = 0.1  # verl's 2 s is half of a small step
        return buffer

    def _init_dataloader(self) -> None:
        """Ends with the data's last epoch, where verl would leave its loop without saving."""
        super()._init_dataloader()
        t = self.recipe.trainer
        if self.steps_per_epoch == 0:
            raise DataError(
                f"data: {len(self.train_dataset)} expressions do not fill one step of trainer.prompts_per_step "
                f"{t.prompts_per_step}; lower it, or name more data"
            )
        steps = min(self.total_training_steps, self.steps_per_epoch * t.epochs)
        self.total_training_steps = self.config.actor_rollout_ref.actor.optim.total_training_steps = steps
        announce_total(self.run_dir, steps)

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        for role in self.role_worker_mapping:
            self.role_worker_mapping[role] = ray.remote(SegActorRolloutRefWorker)

    def _setup(self) -> None:
        from verl_ext.pool import build_pool

        self.recipe = active_recipe()
        self.run_dir = Path(self.recipe.output_dir)
        self.scoring = recipe_scoring(self.recipe)
        self.pool = build_pool(self.recipe)
        super()._setup()

    # ---- the step -----------------------------------------------------------------------------------------------

    def on_init_end(self) -> None:
        super().on_init_end()
        self._sync_pool()  # a resumed actor, or one whose pool has other weights, decodes differently
        if self.global_steps > 0:  # continued: what comes before training has been evaluated
            with open_dict(self.config):
                self.config.trainer.val_before_train = False
            forget_after(self.run_dir / HELD_OUT, self.global_steps)
            if not (self._policy_folder() / "config.json").is_file():  # the run died between saving and exporting
                self._export_policy()

    def on_step_end(self) -> None:
        super().on_step_end()
        with marked_timer("update_pool", self.timing_raw):
            self._sync_pool()
        if self.global_steps < self.total_training_steps and stop_requested(self.run_dir):
            self._save_checkpoint()
            self.total_training_steps = self.global_steps  # verl's loop then ends by itself

    def _sync_pool(self) -> None:
        state = self.actor_rollout_wg.decoder_state()[0]
        if state and self.pool is not None:
            self.pool.load_decoder(state)

    def _get_required_batch_multiple(self, dp_size: int) -> int:
        """Held-out rows are only divided into forward passes; an update needs whole mini-batches."""
        if self._validating:
            return dp_size * self.recipe.trainer.micro_batch
        return int(super()._get_required_batch_multiple(dp_size))

    def _balance_batch(self, batch: Any, metrics: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """verl fills a batch up with short copies of a row; the copies must not keep its dialogue's ``[SEG]``s."""
        batch = super()._balance_batch(batch, metrics, *args, **kwargs)
        copies = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if tag.get("is_padding", False)]
        if copies:
            data = tq.kv_batch_get(keys=copies, partition_id=batch.partition_id, select_fields=["extra_fields"])
            rows = [e | {"episode": e["episode"] | {"turns": []}} for e in non_tensor_rows(data, "extra_fields")]
            fields = tu.get_tensordict({"extra_fields": rows})
            tq.kv_batch_put(keys=copies, partition_id=batch.partition_id, fields=fields)
        return batch

    def _compute_old_log_prob(self, batch: Any, metrics: dict[str, Any]) -> Any:
        batch = super()._compute_old_log_prob(batch, metrics)
        with marked_timer("pool", self.timing_raw):
            rollouts = self._score(batch)
            real = [r for r, tag in zip(rollouts, batch.tags, strict=True) if not tag.get("is_padding", False)]
            metrics.update(metrics_of(real))
            metrics["rollout/failed"] = self._failed(len(real))
            if self.pool is not None:
                metrics["pool/restarts"] = float(self.pool.restarts)
            self._put_rewards(batch, rollouts)
        return batch

    def _failed(self, found: int) -> float:
        """Dialogues of this step that raised: verl (0.9.1) logs the error and fills the batch up without them."""
        missing = self.recipe.rollouts_per_step - found
        if missing > 0:
            logger.warning("step %d: %d dialogues failed; their errors stand above", self.global_steps, missing)
        return float(missing)

    def _score(self, batch: Any) -> list[Rollout]:
        """Masks and rewards for every row of the batch, from what its log-prob pass left."""
        wanted = ["extra_fields", "sample", *self.scoring.columns]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=wanted)
        kept = {new: data[old] for old, new in self.scoring.kept_as.items()}
        if kept:
            tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=tu.get_tensordict(kept))
        samples = [Sample.from_dict(s) for s in non_tensor_rows(data, "sample")]
        episodes = [episode_from_dict(e["episode"]) for e in non_tensor_rows(data, "extra_fields")]
        return score_rollouts(self.scoring, self.pool, samples, episodes, self.scoring.states(episodes, data))

    def _put_rewards(self, batch: Any, rollouts: list[Rollout]) -> None:
        """The reward at each response's last token, jagged like ``response_mask``."""
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["response_mask"])
        rows = []
        for length, rollout in zip(row_lengths(data["response_mask"]).tolist(), rollouts, strict=True):
            row = torch.zeros(length)
            row[-1] = rollout.rewards["total"]
            rows.append(row)
        scores = torch.nested.as_nested_tensor(rows, layout=torch.jagged)
        tq.kv_batch_put(
            keys=batch.keys, partition_id=batch.partition_id, fields=tu.get_tensordict({"rm_scores": scores})
        )

    # ---- held-out clips -----------------------------------------------------------------------------------------

    def _validate(self) -> dict[str, float]:
        """Greedy dialogues with propagation (J&F) and sampled ones (mean reward), on the recipe's ``val`` data.

        Without a segmenter (box rewards that need none) there is no J&F.
        """
        rollouts: list[Rollout] = []
        greedy: list[bool] = []
        for batch_dict in self.val_dataloader:
            rows = len(batch_dict["raw_prompt"])
            batch_dict["uid"] = np.array([str(uuid.uuid4()) for _ in range(rows)], dtype=object)
            is_greedy = dict(zip(batch_dict["uid"], batch_dict["greedy"], strict=True))
            batch = self._roll_out_held_out(tu.get_tensordict(batch_dict))
            self._validating = True
            batch = self._balance_batch(batch, metrics={})
            self._validating = False
            batch.extra_info.update({"calculate_entropy": False, "compute_loss": False, "temperature": 1.0})
            self.actor_rollout_wg.compute_log_prob(batch)
            scored = self._score(batch)
            for key, tag, rollout in zip(batch.keys, batch.tags, scored, strict=True):
                if not tag.get("is_padding", False):
                    rollouts.append(rollout)
                    greedy.append(bool(is_greedy[key.rsplit("_", 2)[0]]))
            tq.kv_clear(keys=batch.keys, partition_id=batch.partition_id)
        firm = [r for r, g in zip(rollouts, greedy, strict=True) if g]
        metrics: dict[str, float] = {}
        if self.pool is not None:
            metrics = held_out_metrics(firm, predict_masks(self.scoring, self.pool, firm))
        sampled = [r for r, g in zip(rollouts, greedy, strict=True) if not g]
        metrics.update(metrics_of(sampled, prefix="val/"))
        metrics.update(metrics_of(firm, prefix="val/greedy_"))
        self._write_held_out(metrics, sampled)
        return metrics

    def _roll_out_held_out(self, batch: Any) -> Any:
        tu.assign_non_tensor_data(batch, "global_steps", self.global_steps)
        tu.assign_non_tensor_data(batch, "validate", True)
        tags = [{"is_prompt": True, "status": "pending", "global_steps": self.global_steps} for _ in range(len(batch))]
        tq.kv_batch_put(keys=list(batch["uid"]), partition_id="val", tags=tags)
        self.agent_loop_manager.generate_sequences(batch)
        found, _ = self.replay_buffer.sample(global_steps=self.global_steps, partition_id="val", batch_size=len(batch))
        return found

    def _write_held_out(self, metrics: dict[str, float], sampled: list[Rollout]) -> None:
        """One line an evaluation; the rewards by prompt let two of them be compared pair by pair."""
        by_prompt: dict[str, list[float]] = {}
        for rollout in sampled:
            by_prompt.setdefault(rollout.sample.id, []).append(rollout.rewards["total"])
        rewards = {key: float(np.mean(values)) for key, values in by_prompt.items()}
        with (self.run_dir / HELD_OUT).open("a") as f:
            f.write(json.dumps({"step": self.global_steps, **metrics, "rewards": rewards}) + "\n")

    # ---- saving -------------------------------------------------------------------------------------------------

    def _save_checkpoint(self) -> None:
        """Once a step: verl (0.9.1) would count a folder saved twice as two, and delete it as its own predecessor."""
        if self._saved_at == self.global_steps:
            return
        self._saved_at = self.global_steps
        super()._save_checkpoint()
        self._export_policy()
        remove_old(self.run_dir, self.recipe.trainer.keep_checkpoints)

    def _policy_folder(self) -> Path:
        checkpoints = Path(self.config.trainer.default_local_dir)
        return checkpoints / f"global_step_{self.global_steps}" / POLICY_FOLDER

    def _export_policy(self) -> None:
        self.actor_rollout_wg.export_policy(str(self._policy_folder()))
        link_newest_policy(self.run_dir)
