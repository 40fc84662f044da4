"""The trainer's part in keeping rollouts: which rows of the batch, and what verl's queue says about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import transfer_queue as tq
from verl.utils.debug import marked_timer

from rewards.truth import truth
from rollout.types import RLE, Sample
from verl_ext.rollout_log import KeptGroup, KeptRollout, KeptTurn, LogProbs, RolloutKeeper
from verl_ext.rollout_log.publish import publish

if TYPE_CHECKING:
    from verl_ext.recipe import Recipe
    from verl_ext.scoring.rollouts import Rollout

COLUMNS = ("advantages", "response_mask", "old_log_probs", "entropy", "rollout_log_probs")
REFERENCE = "ref_log_prob"


@dataclass(frozen=True)
class KeptRow:
    """A rollout of the batch that is kept."""

    key: str
    rollout: Rollout
    versions: tuple[int, int]


class KeepsRollouts:
    """Mixed into verl's trainer, before it: looks at the batch once its advantages are there."""

    recipe: Recipe
    global_steps: int
    local_trigger_step: int = 0
    """Which of the batches that verl's trainer takes in this step."""
    timing_raw: dict[str, Any]
    keeper: RolloutKeeper | None = None
    logger: Any
    _kept_rows: Sequence[KeptRow] = ()

    def rows_to_keep(self, batch: Any, samples: Sequence[Sample]) -> frozenset[int]:
        """Rows of the batch whose dialogues, masks included, will be kept; filled-up copies are none, nor is any of a
        step's later batches: a step has one file."""
        if self.local_trigger_step:
            return frozenset()
        real = [i for i, tag in enumerate(batch.tags) if not tag.get("is_padding", False)]
        prompts = {i: (samples[i].id, group_of(batch.keys[i])) for i in real}
        chosen = frozenset() if self.keeper is None else self.keeper.choose(self.global_steps, prompts.values())
        return frozenset(i for i, prompt in prompts.items() if prompt in chosen)

    def remember(self, batch: Any, rows: frozenset[int], rollouts: Sequence[Rollout]) -> None:
        self._kept_rows = [
            KeptRow(batch.keys[i], rollouts[i], _versions(batch.tags[i], self.global_steps)) for i in sorted(rows)
        ]

    def publish_rollouts(self, step: int, groups: Sequence[KeptGroup]) -> None:
        """To those of verl's loggers that can show them."""
        publish(self.logger.logger, step, groups)

    def finish_keeping(self) -> None:
        """Until all that is kept is on disk."""
        if self.keeper is not None:
            self.keeper.wait()

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        batch = super()._compute_advantage(batch, metrics)  # type: ignore[misc]
        with marked_timer("keep_rollouts", self.timing_raw):
            self._keep(batch)
        return batch

    def _keep(self, batch: Any) -> None:
        rows, self._kept_rows = self._kept_rows, ()
        if not rows or self.keeper is None:
            return
        wanted = [*COLUMNS, *([REFERENCE] if getattr(self, "use_reference_policy", False) else [])]
        keys = [row.key for row in rows]
        data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=wanted)
        columns = {name: list(data[name].unbind()) for name in wanted if name in data.keys()}  # noqa: SIM118
        side = self.recipe.rollout.box_side if self.recipe.has_boxes else None
        self.keeper.write(self.global_steps, lambda: kept_groups(rows, columns, side))


def kept_groups(
    rows: Sequence[KeptRow], columns: Mapping[str, Sequence[torch.Tensor]], box_side: int | None
) -> list[KeptGroup]:
    """Rows of one step, by group. ``columns``: per row (L,) values of its response tokens."""
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(group_of(row.key), []).append(i)
    out = []
    for members in groups.values():
        rollouts = tuple(_kept(rows[i], {name: rows_of[i] for name, rows_of in columns.items()}) for i in members)
        out.append(_group(rows[members[0]].rollout, rollouts, box_side))
    return out


def group_of(key: str) -> str:
    """The prompt's id in verl's key of a trajectory, ``<uid>_<session>_<index>``."""
    return key.rsplit("_", 2)[0]


def _group(first: Rollout, rollouts: tuple[KeptRollout, ...], box_side: int | None) -> KeptGroup:
    sample, spatial = first.sample, first.episode.spatial_frames
    frames = {t for r in rollouts for turn in r.turns for t in (*turn.shown, *turn.masks, turn.keyframe)} | {*spatial}
    masklets = truth(sample)
    unions: dict[int, RLE | None] = {t: masklets.union_rle(t) for t in sorted(frames)}
    visible = tuple(bool(v) for v in masklets.existence())
    e = sample.expression
    return KeptGroup(sample.id, e.text, e.kind, sample.clip, spatial, visible, unions, rollouts, box_side)


def _kept(row: KeptRow, columns: Mapping[str, torch.Tensor]) -> KeptRollout:
    r = row.rollout
    turns = []
    for i, t in enumerate(r.episode.turns):
        masks = r.masks[i] if i < len(r.masks) else {}
        turns.append(KeptTurn(t.text, t.action, t.grounding, t.keyframe, t.shown, masks))
    said = columns["response_mask"].bool()
    advantages = columns["advantages"][said]
    advantage = float(advantages[0]) if len(advantages) else 0.0
    numbers = _log_probs({name: values[said].float() for name, values in columns.items()}, int(said.sum()))
    return KeptRollout(r.episode.stop, tuple(turns), r.rewards, r.ious, advantage, numbers, row.versions)


def _log_probs(columns: Mapping[str, torch.Tensor], tokens: int) -> LogProbs:
    if not tokens:
        return LogProbs(0)
    actor, engine, reference = (columns.get(name) for name in ("old_log_probs", "rollout_log_probs", REFERENCE))
    assert actor is not None
    gap = None if engine is None else float((actor - engine).abs().max())
    kl = None
    if reference is not None:
        ratio = reference - actor
        kl = float((ratio.exp() - ratio - 1).mean())
    entropy = None if "entropy" not in columns else float(columns["entropy"].mean())
    return LogProbs(tokens, float(actor.mean()), float(actor.min()), entropy, gap, kl)


def _versions(tag: Mapping[str, Any], step: int) -> tuple[int, int]:
    return int(tag.get("min_global_steps", step - 1)), int(tag.get("max_global_steps", step - 1))
