"""What the two methods and the two stages ask of the other sections."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rewards.segmenter.config import PRESETS
from rollout.errors import RecipeError
from verl_ext.recipe.asking import CELL, cell_of_policy, prompts_of
from verl_ext.recipe.rules import rule

if TYPE_CHECKING:
    from verl_ext.recipe.schema import Recipe

ANSWERS = {"videoseg_o3": ("masks", "both"), "veason_r1": ("boxes",)}
"""What each method's replies may hold; only videoseg_o3's policy has ``[SEG]``."""
BOX_CONSISTENCY = "veason_consistency"
VERIFICATION = "verification_change"


@rule
def a_least_iou_wants_an_auxiliary_loss(r: Recipe) -> Iterator[str]:
    if r.stage == "grpo" and r.objective.aux_min_iou and not r.objective.aux_coef:
        yield (
            f"objective.aux_min_iou: {r.objective.aux_min_iou:g} with objective.aux_coef: 0, which turns the loss off "
            "whose masks it chooses; set it to 0, or give a coefficient"
        )


@rule
def veason_has_no_mask_head(r: Recipe) -> Iterator[str]:
    if r.method != "veason_r1":
        return
    why = "with method: veason_r1, whose policy has no [SEG] token and no mask decoder"
    if r.rollout.max_turns != 1:
        yield f"rollout.max_turns: {r.rollout.max_turns} with method: veason_r1, which answers in one turn; set it to 1"
    if r.stage == "grpo" and r.objective.calibration.enabled:
        yield f"objective.calibration.enabled: true {why}; set it to false"
    if r.stage == "grpo" and r.objective.aux_coef:
        yield f"objective.aux_coef: {r.objective.aux_coef:g} {why}; set it to 0"
    for key, value in (("decoder_lr", r.optim.decoder_lr), ("projection_lr", r.optim.projection_lr)):
        if value is not None:
            yield f"optim.{key}: {value:g} {why}; set it to null"
    for key, coef in (("mask_ce", r.sft_loss.mask_ce), ("dice", r.sft_loss.dice)):
        if r.stage == "sft" and coef:
            yield f"sft_loss.{key}: {coef:g} {why}; set it to 0"
    asking = [name for name in (BOX_CONSISTENCY, *_propagated()) if name in r.rewards.weights]
    if r.stage == "grpo" and asking and r.pool.checkpoint is None:
        yield (
            f"pool.checkpoint: null, but rewards.weights.{asking[0]} needs SAM 2 and a box policy has "
            f"none; name SAM 2 weights of preset {r.pool.preset}, or drop the reward"
        )


def _propagated() -> list[str]:
    from rewards.registry import propagation_reward_names

    return propagation_reward_names()


@rule
def propagation_is_bounded(r: Recipe) -> Iterator[str]:
    p = r.rewards.propagation
    if r.stage == "grpo" and p.form == "bounded" and p.frames is None:
        yield (
            "rewards.propagation.frames: null with form: bounded bounds nothing; give a number of frames, for example "
            "16, or set rewards.propagation.form=exact"
        )
    asking = (p.form, p.frames) != ("exact", None)
    if r.stage == "grpo" and asking and not any(name in r.rewards.weights for name in _propagated()):
        yield (
            f"rewards.propagation: form {p.form}, frames {p.frames}, but no reward judges propagated masks "
            f"({', '.join(_propagated())}); add one to rewards.weights, or leave rewards.propagation out"
        )


@rule
def environment_fits_the_method(r: Recipe) -> Iterator[str]:
    from rollout.environment import answers_of

    name = r.rollout.environment
    if name is None:
        return
    try:
        answers = answers_of(name)
    except RecipeError as e:
        yield f"rollout.environment: {e}"
        return
    if answers not in ANSWERS[r.method]:
        scored = " or ".join(ANSWERS[r.method])
        yield (
            f"rollout.environment: replies in {name} hold {answers}, but method {r.method} scores {scored}; "
            "change one of the two"
        )
    if answers == "both" and r.rollout.max_turns != 1:
        yield f"rollout.max_turns: {r.rollout.max_turns}, but {name} answers in one turn; set it to 1"


@rule
def verification_can_be_drawn(r: Recipe) -> Iterator[str]:
    if r.stage != "grpo":
        return
    if VERIFICATION in r.rewards.weights and not r.verifies:
        yield (
            f"rewards.weights.{VERIFICATION}: needs a turn in which the policy sees its own masks; set "
            "rollout.environment to one of verified_boxes, verified_masks, verified_combined, or drop the reward"
        )
    if not r.verifies:
        return
    cal = r.objective.calibration
    if r.answers == "boxes" and r.pool.checkpoint is None:
        yield (
            f"pool.checkpoint: null, but {r.rollout.environment} shows the policy its own masks; name SAM 2 weights of "
            f"preset {r.pool.preset}"
        )
    if r.answers != "boxes" and cal.enabled and cal.form == "state":
        yield (
            f"objective.calibration.form: state with {r.rollout.environment}: states are drawn after the dialogue, so "
            "the policy would have judged masks of other states than those that are scored; set form to mask"
        )


@rule
def prompts_are_known(r: Recipe) -> Iterator[str]:
    try:
        prompts_of(r)
    except RecipeError as e:
        yield f"policy.prompt_set: {e}"


@rule
def grpo_needs_groups(r: Recipe) -> Iterator[str]:
    if r.stage != "grpo":
        return
    if r.rollout.group_size < 2:
        yield (
            f"rollout.group_size: {r.rollout.group_size} with stage: grpo; a group of one has no advantage, "
            "set it to 2 or more"
        )
    if r.rollout.temperature == 0:
        yield "rollout.temperature: 0 with stage: grpo; equal rollouts have no advantage, set it above 0"
    if r.rollout.top_p == 0:
        yield "rollout.top_p: 0 leaves no token to sample; set it above 0, at most 1"


@rule
def adapters_keep_the_ratio(r: Recipe) -> Iterator[str]:
    lora = r.policy.lora
    if r.stage == "grpo" and lora.rank and lora.dropout:
        yield (
            f"policy.lora.dropout: {lora.dropout:g} with stage: grpo; the importance ratio would not start at 1, "
            "set it to 0"
        )


@rule
def tokens_fit(r: Recipe) -> Iterator[str]:
    roll, room = r.rollout, r.rollout.engine.max_model_len
    if r.stage != "grpo":
        return
    if roll.prompt_length + roll.response_length > room:
        yield (
            f"rollout.prompt_length {roll.prompt_length} + rollout.response_length {roll.response_length} = "
            f"{roll.prompt_length + roll.response_length} exceed rollout.engine.max_model_len {room}; raise "
            "max_model_len or lower one of the two"
        )
    if roll.turn_length * roll.max_turns > roll.response_length:
        yield (
            f"rollout.turn_length {roll.turn_length} x rollout.max_turns {roll.max_turns} = "
            f"{roll.turn_length * roll.max_turns} exceed rollout.response_length {roll.response_length} (which also "
            "holds the user messages between turns); raise response_length or lower turn_length"
        )


@rule
def frames_are_shown(r: Recipe) -> Iterator[str]:
    if r.has_boxes:
        if r.rollout.box_side % CELL and r.rollout.box_side % cell_of_policy(r.policy.path):
            yield (
                f"rollout.box_side: {r.rollout.box_side} is not a multiple of {CELL}, a cell of Qwen2.5-VL's "
                "vision tower; frames would be resized behind the boxes' back"
            )
        return
    if r.rollout.box_no_target:
        yield (
            "rollout.box_no_target: true is read by answers with boxes alone; a [SEG] policy trains on expressions "
            "without a target as they are, so leave it out, or set rollout.environment to one whose answers hold boxes"
        )
    for where, shown in (("rollout", r.rollout), ("rollout.eval", r.rollout.eval)):
        if shown.initial_low_res + shown.initial_spatial == 0:
            yield f"{where}: initial_low_res and initial_spatial are both 0; the first message needs a frame"
    if r.stage == "grpo" and r.rollout.initial_spatial == 0:
        yield (
            "rollout.initial_spatial: 0 with stage: grpo; mask_iou and the video masks are those of the spatial "
            "frames, set it to 1 or more"
        )


@rule
def calibration_is_complete(r: Recipe) -> Iterator[str]:
    cal = r.objective.calibration
    if cal.reduction == "topk" and cal.topk == 0:
        yield "objective.calibration.topk: 0 with reduction: topk sums no pixel; give a share in (0, 1]"
    if cal.enabled and cal.weight == 0:
        yield "objective.calibration.weight: 0 with enabled: true; give a weight, or set enabled to false"


@rule
def drawn_states_have_a_spread(r: Recipe) -> Iterator[str]:
    cal = r.objective.calibration
    if cal.sigma <= 0:
        yield (
            f"objective.calibration.sigma: {cal.sigma:g} draws nothing and has no density; give a standard deviation "
            "above 0, for example 0.3 (form: mask, the published one, does not read it)"
        )
    if not cal.enabled or cal.form != "state":
        return
    for key, value, plain in (("frames", cal.frames, "keyframe"), ("reduction", cal.reduction, "mean")):
        if value != plain:
            yield (
                f"objective.calibration.{key}: {value} with form: state, which compares states and no masks; leave "
                f"{key} out, or set objective.calibration.form=mask"
            )


@rule
def credit_has_parts(r: Recipe) -> Iterator[str]:
    if r.stage != "grpo" or r.objective.credit != "by_part":
        return
    from rewards.registry import mask_reward_names

    if r.method == "veason_r1":
        yield (
            "objective.credit: by_part with method: veason_r1, whose replies hold no [SEG] token; set "
            "objective.credit=whole"
        )
    elif not any(r.rewards.weights.get(name) for name in mask_reward_names()):
        yield (
            f"objective.credit: by_part, but rewards.weights has no reward of masks ({', '.join(mask_reward_names())}) "
            "to give [SEG] tokens credit by; add one, or set objective.credit=whole"
        )


@rule
def segmenter_is_known(r: Recipe) -> Iterator[str]:
    if r.pool.preset not in PRESETS:
        yield f"pool.preset: {r.pool.preset!r} is no segmenter of ours; known: {', '.join(PRESETS)}"
    elif r.stage == "grpo" and r.pool.checkpoint is None and r.pool.preset != type(r.pool)().preset:
        yield (
            f"pool.preset: {r.pool.preset} without pool.checkpoint is not read: the policy's own scores; name "
            "that one's weights in pool.checkpoint, or leave pool.preset out"
        )


@rule
def optimiser_is_complete(r: Recipe) -> Iterator[str]:
    if r.optim.lr == 0:
        yield "optim.lr: 0 trains nothing; give a learning rate"
    if len(r.optim.betas) != 2:
        yield f"optim.betas: {len(r.optim.betas)} numbers; AdamW has two, for example [0.9, 0.999]"
    if any(beta == 1 for beta in r.optim.betas):
        yield f"optim.betas: {r.optim.betas}; a decay of 1 never forgets, give less than 1"
