"""The trainer's evaluations on held-out clips: greedy dialogues for J&F, sampled ones for the mean reward."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import transfer_queue as tq
from verl.utils import tensordict_utils as tu

from rollout.errors import DataError
from rollout.types import Sample
from verl_ext.inference.failures import check_failed, remember_failure
from verl_ext.reinforce.held_out import held_out_metrics
from verl_ext.reinforce.keeping import group_of
from verl_ext.run.run_files import HELD_OUT, read_metrics
from verl_ext.scoring.rollouts import Rollout, failed_rollout, metrics_of, predict_masks

if TYPE_CHECKING:
    from verl_ext.recipe import Recipe
    from verl_ext.scoring.rollouts import Scoring


class HeldOutValidation:
    """Mixed into verl's trainer, whose ``_validate`` it takes the place of."""

    recipe: Recipe
    run_dir: Path
    scoring: Scoring
    pool: Any
    global_steps: int
    total_training_steps: int
    actor_rollout_wg: Any
    agent_loop_manager: Any
    checkpoint_manager: Any
    replay_buffer: Any
    val_dataloader: Any
    _balance_batch: Any
    _score: Any
    _validating = False

    def validation_is_due(self) -> bool:
        """Whether this step is one to evaluate at and is not evaluated yet: a run may have died in between."""
        every, step = self.recipe.trainer.eval_every, self.global_steps
        due = every > 0 and (step % every == 0 or step >= self.total_training_steps)
        return due and step not in {row["step"] for row in read_metrics(self.run_dir / HELD_OUT)}

    def _validate(self) -> dict[str, float]:
        """Greedy dialogues with propagation (J&F) and sampled ones (mean reward), on the recipe's ``val`` data.

        Without a segmenter (box rewards that need none) or ``trainer.eval_greedy`` there is no J&F. A dialogue that
        raised counts 0 in J&F and as an empty reply in the rewards; ``val/failed`` says how many did.

        Raises:
            WorkerError: too many of them did, see :func:`verl_ext.inference.failures.check_failed`.
        """
        firm: list[Rollout] = []
        sampled: list[Rollout] = []
        for rows in self.val_dataloader:
            for greedy, rollout in self._evaluated(rows):
                (firm if greedy else sampled).append(rollout)
        metrics = {"val/failed": float(sum(r.failed for r in (*firm, *sampled)))}
        if self.pool is not None and firm:
            masks = self._masks(firm)
            metrics |= held_out_metrics(firm, masks)
            metrics["val/failed"] += sum(not r.failed and m is None for r, m in zip(firm, masks, strict=True))
        metrics.update(metrics_of(sampled, prefix="val/"))
        if firm:
            metrics.update(metrics_of(firm, prefix="val/greedy_"))
        self._write_held_out(metrics, sampled)
        return metrics

    def _evaluated(self, rows: Mapping[str, Any]) -> Iterator[tuple[bool, Rollout]]:
        """(greedy, rollout) of every dialogue of the rows, those that failed at the end."""
        uids = [str(uuid.uuid4()) for _ in rows["raw_prompt"]]
        given = tu.get_tensordict({**rows, "uid": np.array(uids, dtype=object)})
        batch = self._roll_out_held_out(given)
        missing = Counter(dict(zip(uids, map(int, rows["__rollout_n__"]), strict=True)))
        expected = missing.total()
        check_failed(self.run_dir, self.global_steps, expected, len(batch.keys), "held-out dialogues")
        greedy = dict(zip(uids, map(bool, rows["greedy"]), strict=True))
        for key, tag, rollout in self._scored(batch):
            if not tag.get("is_padding", False):
                uid = group_of(key)
                missing[uid] -= 1
                yield greedy[uid], rollout
        for uid, row in zip(uids, rows["sample"], strict=True):
            for _ in range(missing[uid]):
                yield greedy[uid], failed_rollout(self.scoring, Sample.from_dict(row))

    def _scored(self, batch: Any) -> list[tuple[str, Mapping[str, Any], Rollout]]:
        """(key, tag, rollout) of the dialogues, by a pass of the actor, for which vLLM gives the GPU back meanwhile."""
        with self.rollout_makes_room():
            return self._scored_by_the_actor(batch)

    @contextmanager
    def rollout_makes_room(self) -> Iterator[None]:
        """vLLM sleeps meanwhile, where it is on the actor's GPU."""
        shares_gpu = self.recipe.device == "cuda" and not self.recipe.rolls_out_apart
        if shares_gpu:
            self.checkpoint_manager.sleep_replicas()
        yield
        if shares_gpu:  # asleep, an engine forgets its weights
            self.checkpoint_manager.update_weights(self.global_steps)

    def _scored_by_the_actor(self, batch: Any) -> list[tuple[str, Mapping[str, Any], Rollout]]:
        self._validating = True
        batch = self._balance_batch(batch, metrics={})
        self._validating = False
        batch.extra_info.update({"calculate_entropy": False, "compute_loss": False, "temperature": 1.0})
        self.actor_rollout_wg.compute_log_prob(batch)
        rollouts = self._score(batch)
        tq.kv_clear(keys=batch.keys, partition_id=batch.partition_id)
        return list(zip(batch.keys, batch.tags, rollouts, strict=True))

    def _roll_out_held_out(self, batch: Any) -> Any:
        tu.assign_non_tensor_data(batch, "global_steps", self.global_steps)
        tu.assign_non_tensor_data(batch, "validate", True)
        tags = [{"is_prompt": True, "status": "pending", "global_steps": self.global_steps} for _ in range(len(batch))]
        tq.kv_batch_put(keys=list(batch["uid"]), partition_id="val", tags=tags)
        self.agent_loop_manager.generate_sequences(batch)
        found, _ = self.replay_buffer.sample(global_steps=self.global_steps, partition_id="val", batch_size=len(batch))
        return found

    def _masks(self, firm: Sequence[Rollout]) -> list[Any]:
        """Per rollout the mask of each frame; None for a dialogue that failed, or of which nothing can be drawn.

        Raises:
            WorkerError: of too many of them, see :func:`verl_ext.inference.failures.check_failed`.
        """
        answered = [r for r in firm if not r.failed]
        try:
            drawn: list[Any] = list(predict_masks(self.scoring, self.pool, answered)) if answered else []
        except DataError:  # a frame that no dialogue showed cannot be read: which clip's, is found one by one
            drawn = [self._drawn(rollout) for rollout in answered]
            check_failed(self.run_dir, self.global_steps, len(drawn), len(drawn) - drawn.count(None), "held-out masks")
        masks = iter(drawn)
        return [None if r.failed else next(masks) for r in firm]

    def _drawn(self, rollout: Rollout) -> Any:
        try:
            return predict_masks(self.scoring, self.pool, [rollout])[0]
        except DataError as e:
            remember_failure(self.run_dir, self.global_steps, rollout.sample.id, e)
            return None

    def _write_held_out(self, metrics: Mapping[str, float], sampled: Sequence[Rollout]) -> None:
        """One line an evaluation; the rewards by prompt let two of them be compared pair by pair."""
        by_prompt: dict[str, list[float]] = {}
        for rollout in sampled:
            by_prompt.setdefault(rollout.sample.id, []).append(rollout.rewards["total"])
        rewards = {key: float(np.mean(values)) for key, values in by_prompt.items()}
        with (self.run_dir / HELD_OUT).open("a") as f:
            f.write(json.dumps({"step": self.global_steps, **metrics, "rewards": rewards}) + "\n")
