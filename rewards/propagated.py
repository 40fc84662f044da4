"""Rewards of the masks that users get: propagated over the clip as in evaluation, for both kinds of answers.

Not in the papers; both variants agree. What is scored is `PropagatedScores`, which ``rewards.propagation`` of a recipe
makes exact or cheap. A frame that is empty on both sides counts 1, so an expression without a target pays in full for
an answer without a mask, and each frame with one costs its share. A reply in which no answer can be read earns 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rewards.registry import register_reward
from rewards.types import BoxRewardInput, PropagatedScores, RewardInput, Variant
from rollout.errors import ProtocolError

BOTH = (RewardInput, BoxRewardInput)


def _scores(x: RewardInput | BoxRewardInput, name: str) -> PropagatedScores:
    if x.propagated is None:
        raise ProtocolError(f"reward {name!r} needs the masks after propagation; ask the segmenter for them first")
    return x.propagated


def _mean(values: object) -> float:
    found = np.asarray(values, dtype=np.float64)
    return float(found.mean()) if found.size else 0.0


@register_reward("propagated_iou", on=BOTH, of_masks=True, propagated=True)
def propagated_iou(x: RewardInput | BoxRewardInput, variant: Variant) -> float:
    """0..1: mean region similarity J over the judged frames; 0 without an answer."""
    return _mean(_scores(x, "propagated_iou").j)


@register_reward("propagated_jf", on=BOTH, of_masks=True, propagated=True)
def propagated_jf(x: RewardInput | BoxRewardInput, variant: Variant) -> float:
    """0..1: J&F, (mean J + mean F) / 2 over the judged frames, as benchmarks count it; 0 without an answer."""
    found = _scores(x, "propagated_jf")
    return (_mean(found.j) + _mean(found.f)) / 2


@register_reward("n_acc", on=BOTH, of_masks=True, propagated=True)
def n_acc(x: RewardInput | BoxRewardInput, variant: Variant) -> float:
    """0 or 1: 1 if the expression has no target and the answer no mask in any judged frame.

    0 for every rollout of an expression with a target, so that no advantage changes; N-acc, the share of expressions
    without a target that are told, is the metric ``answers/n_acc``.
    """
    found = _scores(x, "n_acc")
    return accuracies(found.predicted, found.has_target).get("n_acc", 0.0)


@register_reward("t_acc", on=BOTH, of_masks=True, propagated=True)
def t_acc(x: RewardInput | BoxRewardInput, variant: Variant) -> float:
    """0 or 1: 1 if the expression has a target and the answer a mask in some judged frame; see ``n_acc``."""
    found = _scores(x, "t_acc")
    return accuracies(found.predicted, found.has_target).get("t_acc", 0.0)


def accuracies(predicted: Sequence[bool], has_target: bool) -> dict[str, float]:
    """``n_acc`` of an expression without a target, ``t_acc`` of one that has one: 0 or 1.

    ``predicted``: by frame, whether there is a mask; no frames where nothing was answered.
    """
    drawn = any(predicted)
    return {"t_acc": float(drawn)} if has_target else {"n_acc": float(len(predicted) > 0 and not drawn)}
