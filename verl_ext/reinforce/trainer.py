"""What verl's trainers become here, whatever their mode: the segmenter pool in their step.

One step reads: roll out -> old log-probs and ``[SEG]`` states -> masks and rewards from the pool -> reference ->
advantages -> update -> weights to vLLM and to the pool. How rollouts and steps follow each other is the mode's
(`verl_ext.reinforce.modes`).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
import transfer_queue as tq
from omegaconf import open_dict
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.utils import tensordict_utils as tu
from verl.utils.debug import marked_timer

from rewards.pool.desk import DeskServer
from rollout.chat_format import IMAGE_PAD
from rollout.errors import DataError, WorkerError
from rollout.types import Sample
from verl_ext.engine.workers import SegActorRolloutRefWorker
from verl_ext.inference.failures import check_failed, remember_failure
from verl_ext.inference.judging import KEY as JUDGED
from verl_ext.inference.traffic import traffic_metrics
from verl_ext.inference.turn_states import DRAWN_STATE
from verl_ext.objective.credit import mask_reward
from verl_ext.policy.projection import Projection
from verl_ext.recipe.batch_checks import scores_as_they_end
from verl_ext.recipe.context import active_recipe
from verl_ext.reinforce.ahead import NO_DIALOGUES
from verl_ext.reinforce.credit import CreditsByPart
from verl_ext.reinforce.keeping import KeepsRollouts
from verl_ext.reinforce.regroup import regroup
from verl_ext.reinforce.staleness import staleness_metrics
from verl_ext.reinforce.validation import HeldOutValidation
from verl_ext.rollout_log import RolloutKeeper
from verl_ext.run.checkpoints import POLICY_FOLDER, link_newest_policy, remove_old, step_folder
from verl_ext.run.run_files import announce_total, stop_requested, write_result
from verl_ext.scoring.rollouts import Rollout, episode_from_dict, metrics_of, recipe_scoring, score_rollouts
from verl_ext.scoring.seg import ScoredInPass
from verl_ext.scoring.verified import drawn_state_metrics
from verl_ext.seg.batch import row_lengths, rows_without_dummy
from verl_ext.seg.drawn_states import DRAW_STATES
from verl_ext.seg.episodes import non_tensor_rows


class VideosegStep(KeepsRollouts, CreditsByPart, HeldOutValidation, PPOTrainer):  # type: ignore[misc]
    """Comes before one of verl's trainers; runs inside verl's TaskRunner (:mod:`verl_ext.reinforce.launch`)."""

    worker_class: type = SegActorRolloutRefWorker
    total_training_steps: int

    _saved_at = -1
    _traffic: dict[str, float]
    """How the scored batch was rolled out."""
    _projection: Projection | None = None
    """Of the ``[SEG]`` states that dialogues have drawn while they go on."""
    _stopped_early = False
    _failed = 0
    """Dialogues of this step."""
    _mask_rewards: dict[str, float]
    """By row of the current batch."""

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
        self.total_training_steps = steps
        self.config.actor_rollout_ref.actor.optim.total_training_steps = steps * self.parameter_sync_step
        announce_total(self.run_dir, steps)

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        for role in self.role_worker_mapping:
            self.role_worker_mapping[role] = ray.remote(self.worker_class)

    def _setup(self) -> None:
        from verl_ext.scoring.pool import build_pool

        self.recipe = active_recipe()
        self.run_dir = Path(self.recipe.output_dir)
        self.scoring = recipe_scoring(self.recipe)
        self.pool = build_pool(self.recipe)
        self.desk = self._open_desk() if self._asked_from_afar else None
        self.keeper = RolloutKeeper(self.run_dir, self.recipe.trainer.keep_rollouts, self.publish_rollouts)
        super()._setup()

    @property
    def _asked_from_afar(self) -> bool:
        """Whether dialogues ask the pool, for masks to be shown or for their scores."""
        return self.pool is not None and (self.scoring.verifies or scores_as_they_end(self.recipe))

    def _open_desk(self) -> DeskServer:
        """For dialogues that ask while they go on. Those that see masks of ``[SEG]`` send states as vLLM has them."""
        if self.scoring.verifies and self.recipe.answers != "boxes":
            self._projection = Projection()
        return DeskServer(lambda: self.pool, project=self._projection)

    def on_init_end(self) -> None:
        super().on_init_end()
        self._sync_pool()  # a resumed actor, or one whose pool has other weights, decodes differently
        with open_dict(self.config):  # a continued run does again what it died before
            self.config.trainer.val_before_train = self.validation_is_due()
        if self.global_steps > 0 and not (self._policy_folder() / "config.json").is_file():
            self._export_policy()

    def fit(self, agent_loop_manager: Any) -> None:
        """Trains, and writes how that ended.

        Raises:
            WorkerError: verl left its loop before the last step, so that what was learnt since the last save is lost.
        """
        super().fit(agent_loop_manager)
        self.let_go()
        self.finish_keeping()
        reached = self.global_steps - 1
        if reached < self.total_training_steps:
            raise WorkerError(
                f"training ended after step {reached} of {self.total_training_steps}: the data gave no more prompts. "
                "Continue it with --resume"
            )
        write_result(self.run_dir, finished=not self._stopped_early)

    def let_go(self) -> None:
        """Nothing is learnt any more: whatever still rolls out stops."""

    # ---- the step -----------------------------------------------------------------------------------------------

    def step(self, metrics: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        self._failed = 0
        batch = super().step(metrics, *args, **kwargs)
        metrics["rollout/failed"] = float(self._failed)  # of all its updates, of which verl would log the mean
        return batch

    def on_step_end(self) -> None:
        super().on_step_end()
        with marked_timer("update_pool", self.timing_raw):
            self._sync_pool()
        if self.global_steps < self.total_training_steps and stop_requested(self.run_dir):
            self._save_checkpoint()
            self._stopped_early = True
            self.total_training_steps = self.global_steps  # verl's loop then ends by itself

    def _step_once(self, metrics: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        try:
            batch = super()._step_once(metrics, *args, **kwargs)
        except RuntimeError as e:
            if NO_DIALOGUES in str(e):
                self._check_failed(0)
            raise
        metrics.update(staleness_metrics(batch.tags, self.global_steps))
        return batch

    def _check_failed(self, found: int) -> int:
        """Of a batch's dialogues, which begin up to ``max_staleness`` steps before it where rollouts run ahead."""
        t, step = self.recipe.trainer, self.global_steps
        since = step if t.mode == "sync" else step - t.ahead.max_staleness
        return check_failed(self.run_dir, step, self._dialogues_wanted, found, since=since)

    @property
    def _dialogues_wanted(self) -> int:
        """Of one batch: a step's, or of each of its updates where verl takes as many batches."""
        return self.recipe.rollouts_per_step // int(self.parameter_sync_step)

    def _sync_pool(self) -> None:
        """No dialogue goes on meanwhile: what is drawn for it and what is scored of it have one version."""
        state = self.actor_rollout_wg.decoder_state()[0]
        if state and self.pool is not None:
            self.pool.load_decoder(state)
        if self._projection is not None:
            self._projection.load(self.actor_rollout_wg.projection_state()[0])

    def _get_required_batch_multiple(self, dp_size: int) -> int:
        """Held-out rows are only divided into forward passes; an update needs whole mini-batches."""
        if self._validating:
            return dp_size * self.recipe.micro_batch
        return int(super()._get_required_batch_multiple(dp_size))

    def _balance_batch(self, batch: Any, metrics: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """verl fills a batch up with short copies of a row; the copies must not keep its dialogue's ``[SEG]``s.

        Before that, what is missing is counted: a batch that is mostly copies would train on little, in silence.
        """
        if not self._validating:
            self._failed += self._check_failed(len(batch.keys))
            metrics["rollout/failed"] = float(self._failed)
        batch = super()._balance_batch(batch, metrics, *args, **kwargs)
        if self.recipe.policy.packing == "group":
            regroup(batch, self._shares(len(batch.keys)), self.tokenizer.convert_tokens_to_ids(IMAGE_PAD))
        copies = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if tag.get("is_padding", False)]
        if copies:
            data = tq.kv_batch_get(keys=copies, partition_id=batch.partition_id, select_fields=["extra_fields"])
            rows = [e | {"episode": e["episode"] | {"turns": []}} for e in non_tensor_rows(data, "extra_fields")]
            fields = tu.get_tensordict({"extra_fields": rows})
            tq.kv_batch_put(keys=copies, partition_id=batch.partition_id, fields=fields)
        return batch

    def _shares(self, sequences: int) -> int:
        """Neighbouring parts of a batch that are computed apart: processes times updates."""
        t = self.recipe.trainer
        updates = 1 if self._validating else sequences // (t.mini_batch_prompts * self.recipe.rollout.group_size)
        return t.actor_processes * max(1, updates)

    def _compute_old_log_prob(self, batch: Any, metrics: dict[str, Any]) -> Any:
        batch.extra_info[DRAW_STATES] = True
        batch = super()._compute_old_log_prob(batch, metrics)
        batch.extra_info.pop(DRAW_STATES, None)
        with marked_timer("pool", self.timing_raw):
            rollouts = self._score(batch, keep=True)
            real = [r for r, tag in zip(rollouts, batch.tags, strict=True) if not tag.get("is_padding", False)]
            metrics.update(metrics_of(real) | self._traffic)
            if self.pool is not None:
                metrics["pool/restarts"] = float(self.pool.restarts)
            self._put_rewards(batch, rollouts)
            weights = self.recipe.rewards.weights
            self._mask_rewards = {k: mask_reward(r.rewards, weights) for k, r in zip(batch.keys, rollouts, strict=True)}
        return batch

    def _score(self, batch: Any, keep: bool = False) -> list[Rollout]:
        """Masks and rewards for every row of the batch, from what its log-prob pass left.

        ``keep``: some of them, with their masks, go to disk once their advantages are known.
        """
        in_pass = self.recipe.pool.share_gpu and "seg_states" in self.scoring.columns
        wanted = ["extra_fields", "sample", *self.scoring.columns, *(["seg_ious"] if in_pass else [])]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=wanted)
        kept = {new: data[old] for old, new in self.scoring.kept_as.items()}
        if kept:
            tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=tu.get_tensordict(kept))
        samples = [Sample.from_dict(s) for s in non_tensor_rows(data, "sample")]
        rows = non_tensor_rows(data, "extra_fields")
        real = [i for i, tag in enumerate(batch.tags) if not tag.get("is_padding", False)]
        self._traffic = traffic_metrics([rows[i] for i in real])
        episodes = [episode_from_dict(row["episode"]) for row in rows]
        pool: Any = self.pool
        if in_pass:
            ious = [row.reshape(-1).numpy() for row in rows_without_dummy(data["seg_ious"])]
            pool = ScoredInPass(episodes, ious, self.pool)
        chosen = self.rows_to_keep(batch, samples) if keep else frozenset()
        states = self.scoring.states(episodes, data)
        if (project := self._projection) is not None:
            hidden = [rows[i].get(DRAWN_STATE) for i in real]
            drawn = [None if h is None else project(h) for h in hidden]
            self._traffic |= drawn_state_metrics([episodes[i] for i in real], [states[i] for i in real], drawn)
        refused = partial(remember_failure, self.run_dir, self.global_steps)
        known = [row.get(JUDGED, {}) for row in rows]
        rollouts = score_rollouts(self.scoring, pool, samples, episodes, states, chosen, refused, known)
        failed = sum(rollout.failed for rollout in rollouts)
        check_failed(self.run_dir, self.global_steps, len(rollouts), len(rollouts) - failed, "rollouts' masks")
        self.remember(batch, chosen, rollouts)
        return rollouts

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

    # ---- saving -------------------------------------------------------------------------------------------------

    def _save_checkpoint(self) -> None:
        """Once a step. Old checkpoints go only when the new one is whole, its policy included."""
        if self._saved_at == self.global_steps:
            return
        self._saved_at = self.global_steps
        super()._save_checkpoint()
        self._export_policy()
        remove_old(self.run_dir, self.recipe.trainer.keep_checkpoints)

    def _policy_folder(self) -> Path:
        return step_folder(self.run_dir, self.global_steps) / POLICY_FOLDER

    def _export_policy(self) -> None:
        self.actor_rollout_wg.export_policy(str(self._policy_folder()))
        link_newest_policy(self.run_dir)
