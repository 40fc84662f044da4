"""J&F of greedy held-out dialogues inside training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rewards.propagated import accuracies
from rewards.truth import truth
from rollout.types import RLE, Masklets

if TYPE_CHECKING:
    from verl_ext.scoring.rollouts import Rollout


def union_rles(masklets: Masklets) -> list[RLE | None]:
    """(T,) the merged objects of each frame; None where none has a mask."""
    return [masklets.union_rle(frame) for frame in range(masklets.num_frames)]


def held_out_metrics(rollouts: Sequence[Rollout], masks: Sequence[Sequence[RLE | None] | None]) -> dict[str, float]:
    """``val/jf`` (0..100), its standard error, one value per kind of expression, and ``val/n_acc`` and ``val/t_acc``:
    the share (0..1) of expressions without a target that got no mask, and of the others that got one.

    masks: per rollout, the predicted mask of each frame of its clip; None where the dialogue failed, which scores 0
        (also where no target is visible, for nothing was predicted there).
    """
    from rewards.metrics import score_clip

    values: dict[str, list[float]] = {}
    told: dict[str, list[float]] = {}
    for rollout, predicted in zip(rollouts, masks, strict=True):
        score, drawn = 0.0, []
        if predicted is not None:
            found = score_clip(list(predicted), union_rles(truth(rollout.sample)), where=rollout.sample.id)
            score, drawn = 50.0 * float(found.j.mean() + found.f.mean()), found.pred_visible.tolist()
        for name, value in accuracies(drawn, bool(rollout.sample.expression.anno_ids)).items():
            told.setdefault(name, []).append(value)
        values.setdefault("", []).append(score)
        values.setdefault(rollout.sample.expression.kind or "all", []).append(score)
    out = {}
    for kind, scores in values.items():
        out[f"val/jf/{kind}" if kind else "val/jf"] = float(np.mean(scores))
    if len(values.get("", [])) > 1:
        out["val/jf_std_error"] = float(np.std(values[""], ddof=1) / np.sqrt(len(values[""])))
    return out | {f"val/{name}": float(np.mean(right)) for name, right in told.items()}
