"""What is rewarded and what is minimised."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Variant = Literal["intended", "released"]


@dataclass
class PropagationRecipe:
    """How masks are propagated for the rewards that judge them so (``propagated_iou``, ``propagated_jf``, ``n_acc``,
    ``t_acc``); nothing is propagated without one of these."""

    form: Literal["exact", "bounded"] = "exact"
    """``exact``: SAM 2 sees every frame, as in evaluation. ``bounded``: only the judged frames and the keyframe, so
    that a clip costs the same whatever its length."""
    frames: int | None = None
    """Evenly spaced frames that are judged; null judges all."""


@dataclass
class RewardsRecipe:
    """A weighted sum of registered rewards."""

    weights: dict[str, float] = field(default_factory=dict)
    """Weight by the reward's name (``recipes/bases`` has each method's own); 0 leaves an inherited one out."""
    variant: Variant = "intended"
    """``released`` keeps the published code's quirks."""
    existence: Literal["visible", "legible"] = "visible"
    """Which frames ``interval`` and ``keyframe_hit`` are after: those in which the target is visible (published), or
    those in which it can be told from others, where the data set says so."""
    propagation: PropagationRecipe = field(default_factory=PropagationRecipe)
    """Of the masks that users get."""


@dataclass
class CalibrationRecipe:
    """SEG-aware logit calibration (SPEC 2.3): the mask's log-probability joins that of its ``[SEG]`` token."""

    enabled: bool = True
    """Off: the policy gradient does not reach the mask decoder."""
    form: Literal["mask", "state"] = "mask"
    """What was sampled at rollout. ``mask`` (published): the mask itself, by the keys below. ``state``: a Gaussian draw
    around the ``[SEG]`` state, whose masks are scored; its log-density joins the token's, and rollouts of a prompt
    then differ in their masks."""
    sigma: float = 0.3
    """Standard deviation of ``form: state``, in each of a state's dimensions."""
    frames: Literal["keyframe", "all"] = "keyframe"
    """Whose masks count: the keyframe's (published), or also those of the initial spatial frames (slower)."""
    reduction: Literal["mean", "sum", "topk"] = "mean"
    """Over the 32 x 32 pixels of those frames: mean (published), sum, or the sum over the hardest share ``topk``."""
    topk: float = 1.0
    """Share of the pixels that ``reduction: topk`` sums, in (0, 1]."""
    weight: float = 1.0
    """Factor on the mask's log-probability."""
    threshold_variant: Variant = "intended"
    """``intended`` binarises the rollout's mask at logit 0, ``released`` at logit 0.5."""


@dataclass
class RolloutCorrectionRecipe:
    """Truncated importance sampling between the weights that rolled out and those that the update starts from, by the
    log-probs of the text; masks are drawn by the latter and need none."""

    level: Literal["token", "sequence"] | None = None
    """What a weight is of: each token, or the product over a dialogue's; null weighs nothing."""
    threshold: float = 2.0
    """Weights are cut to this."""


@dataclass
class ObjectiveRecipe:
    """The RL loss (SPEC 2.4)."""

    kl_coef: float = 0.04
    """beta of the k3 divergence from the reference; 0 runs without a reference. verl cuts a token's k3 at 10, without a
    gradient from there on (a token 13.6 times rarer than in the reference); such tokens get the gradient of verl's
    ``low_var_kl+``, so that what has gone furthest is still called back. All others have the published one."""
    clip_ratio: float = 0.2
    """PPO's clip of the importance ratio."""
    aux_coef: float = 0.2
    """Of BCE + dice against ground truth, the mean over video masks plus the mean over keyframe masks."""
    aux_trains: Literal["all", "head"] = "all"
    """What the auxiliary loss reaches: everything (published), or the projection and the mask decoder alone. It pulls
    the mask of a wrongly named object to the truth, against the text before it."""
    aux_min_iou: float = 0.0
    """Masks of a lower soft IoU with the truth, both at the decoder's quarter resolution, count as 0 in the auxiliary
    loss's means; 0 (published) lets all count. At 0.5 it holds masks in place while the language model moves, and pulls
    none of another object; ``aux/kept`` in the log is the share that counts."""
    credit: Literal["whole", "by_part"] = "whole"
    """Whose advantage a token gets: ``whole`` (published) is that of all rewards, on every token; ``by_part`` gives
    ``[SEG]`` tokens that of the rewards of masks alone."""
    advantage_eps: float = 1e-4
    """Added to a group's standard deviation before dividing by it."""
    calibration: CalibrationRecipe = field(default_factory=CalibrationRecipe)
    """The mask term of the policy gradient."""
    rollout_correction: RolloutCorrectionRecipe = field(default_factory=RolloutCorrectionRecipe)
    """For rollouts by older weights (``trainer.mode``)."""


@dataclass
class SftLossRecipe:
    """The supervised loss (SPEC 2.6): coefficients of its three terms."""

    lm: float = 1.0
    """Next-token cross-entropy on assistant tokens."""
    mask_ce: float = 2.0
    """Mask cross-entropy."""
    dice: float = 0.5
    """Mask dice loss."""
