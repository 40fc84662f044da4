"""Rules between settings, checked before any process starts. Each message says the numbers seen and the remedy.

A new rule is one function that yields sentences, decorated with ``@rule``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rollout.errors import RecipeError
from verl_ext.recipe.ranges import out_of_range
from verl_ext.recipe.rules import RULES, rule

if TYPE_CHECKING:
    from rewards.registry import Reward
    from verl_ext.recipe.schema import Recipe

STANZA_SUFFIXES = (".yaml", ".yml")
"""A data set may be such a file instead of a name."""


def check(recipe: Recipe) -> list[str]:
    """Everything that contradicts itself in ``recipe``; rules see only numbers that are within their bounds."""
    from verl_ext.recipe import (
        batch_checks,
        cluster_checks,
        method_checks,
        mode_checks,
    )  # they add their rules, behind this file's

    assert batch_checks and cluster_checks and method_checks and mode_checks
    return out_of_range(recipe) or [problem for check_one in RULES for problem in check_one(recipe)]


def check_paths(recipe: Recipe) -> list[str]:
    """Files and folders that the recipe names and that are not there (not part of `check`: they come and go)."""
    named = {"policy.path": recipe.policy.path}
    for section, sources in (("data", recipe.data), ("val", recipe.val)):
        for i, source in enumerate(sources):
            named[f"{section}[{i}].root"] = source.root
            if source.dataset.endswith(STANZA_SUFFIXES):
                named[f"{section}[{i}].dataset"] = source.dataset
            if source.annotations is not None:
                named[f"{section}[{i}].annotations"] = source.annotations
    if recipe.pool.checkpoint is not None and recipe.stage == "grpo":
        named["pool.checkpoint"] = recipe.pool.checkpoint
    return [
        f"{key}: {path} does not exist; put it there or give {key.replace('[', '.').replace(']', '')}=..."
        for key, path in named.items()
        if not Path(path).exists()
    ]


@rule
def data_is_named(r: Recipe) -> Iterator[str]:
    from data_construction.readers import dataset_names

    if not r.data:
        yield "data: is empty; name at least one source: {dataset: revos, root: ..., split: train}"
    known = dataset_names()
    for section, sources in (("data", r.data), ("val", r.val)):
        for i, source in enumerate(sources):
            if source.dataset not in known and not source.dataset.endswith(STANZA_SUFFIXES):
                near = difflib.get_close_matches(source.dataset, known, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                where = f"{section}[{i}].dataset"
                yield f"{where}: no data set is called {source.dataset!r}; {hint}known: {', '.join(known)}"
    for i, source in enumerate(r.val):
        if source.weight != 1:
            yield f"val[{i}].weight: {source.weight:g}, but what is held out is evaluated once each; leave it out"
    if r.trainer.eval_every and not r.val and r.stage == "grpo":
        yield f"trainer.eval_every: {r.trainer.eval_every}, but val is empty; name held-out data, or set it to 0"


@rule
def annotations_are_read(r: Recipe) -> Iterator[str]:
    for section, sources in (("data", r.data), ("val", r.val)):
        for i, source in enumerate(sources):
            if r.stage == "grpo" and source.annotations is not None:
                yield (
                    f"{section}[{i}].annotations: {source.annotations} with stage: grpo, which takes expressions from "
                    "the data set and reads no conversations; leave it out"
                )


@rule
def cpu_can_do_it(r: Recipe) -> Iterator[str]:
    if r.device != "cpu":
        return
    if r.policy.attn == "flash_attention_2":
        yield "policy.attn: flash_attention_2 with device: cpu; it needs CUDA, set policy.attn=sdpa"
    if r.policy.dtype == "bfloat16":
        yield "policy.dtype: bfloat16 with device: cpu; rollout and actor agree only in float32 there, set float32"
    if r.rollout.engine.tensor_parallel > 1:
        yield f"rollout.engine.tensor_parallel: {r.rollout.engine.tensor_parallel} with device: cpu; set it to 1"
    if not r.rollout.engine.enforce_eager:
        yield "rollout.engine.enforce_eager: false with device: cpu; CUDA graphs need CUDA, set it to true"
    if r.rollout.engine.vision_attention not in ("auto", "sdpa"):
        yield (
            f"rollout.engine.vision_attention: {r.rollout.engine.vision_attention} with device: cpu; its kernels need "
            "CUDA, set it to auto or sdpa"
        )
    if r.pool.gpus_per_worker:
        yield f"pool.gpus_per_worker: {r.pool.gpus_per_worker:g} with device: cpu; set it to 0"
    if r.pool.share_gpu:
        yield "pool.share_gpu: true with device: cpu; set it to false"


@rule
def a_gpu_is_shared_or_its_own(r: Recipe) -> Iterator[str]:
    if r.device == "cuda" and r.pool.share_gpu and r.pool.gpus_per_worker:
        yield (
            f"pool.share_gpu: true with pool.gpus_per_worker: {r.pool.gpus_per_worker:g}; set gpus_per_worker to 0 to "
            "share the actor's GPU, or share_gpu to false"
        )


@rule
def packing_has_its_kernel(r: Recipe) -> Iterator[str]:
    p = r.policy
    if p.remove_padding and p.attn != "flash_attention_2":
        yield f"policy.remove_padding: true with policy.attn: {p.attn}; packing needs flash_attention_2"
    if p.packing == "none":
        if p.compile:
            yield "policy.compile: true with policy.packing: none, whose lengths differ in every pass; set it to false"
        return
    for key, value, plain in (("attn", p.attn, "sdpa"), ("remove_padding", str(p.remove_padding).lower(), "false")):
        if value != plain:
            yield (
                f"policy.{key}: {value} with policy.packing: {p.packing}, whose rows have an attention of their own; "
                f"leave it out, or set policy.packing=none"
            )
    if r.device == "cuda" and p.dtype == "float32":
        yield f"policy.dtype: float32 with policy.packing: {p.packing}; CUDA's kernels need bfloat16, set packing=none"


@rule
def a_sequence_fits_a_row(r: Recipe) -> Iterator[str]:
    longest = r.rollout.engine.max_model_len
    if r.stage == "grpo":
        longest = min(longest, r.rollout.prompt_length + r.rollout.response_length)
    if r.policy.packing != "none" and r.policy.row_tokens < longest:
        yield (
            f"policy.row_tokens: {r.policy.row_tokens} is less than the {longest} tokens that a sequence may have "
            f"(rollout.prompt_length, response_length, engine.max_model_len); raise it to {longest} or more"
        )


@rule
def rewards_fit_the_method(r: Recipe) -> Iterator[str]:
    from rewards.registry import get_reward

    if r.stage != "grpo":
        return
    if not r.rewards.weights:
        yield "rewards.weights: is empty; reinforcement needs at least one reward, for example mask_iou: 1.0"
    for name in r.rewards.weights:
        try:
            reward = get_reward(name)
        except RecipeError as e:
            yield f"rewards.weights.{name}: {e}"
            continue
        if not scores_answers(reward, r.answers):
            who = "method" if r.rollout.environment is None else "rollout.environment"
            yield (
                f"rewards.weights.{name}: scores {_scored(reward)}, but {who} is {r.rollout.environment or r.method}; "
                f"remove it (rewards.weights.{name}=0) or change the {who}"
            )


def scores_answers(reward: Reward, answers: str) -> bool:
    """Whether a reward can score replies that hold ``answers``. Of combined ones those that read a dialogue's intervals
    cannot; nor does ``veason_consistency``, whose SAM 2 sees the boxes alone."""
    from rewards.types import BoxRewardInput, CombinedRewardInput, RewardInput

    kinds = reward.input_types
    if answers != "both":
        return {"masks": RewardInput, "boxes": BoxRewardInput}[answers] in kinds
    boxes = BoxRewardInput in kinds and reward.name != "veason_consistency"
    return CombinedRewardInput in kinds or boxes or reward.of_masks


def _scored(reward: Reward) -> str:
    names = {"RewardInput": "[SEG] dialogues", "BoxRewardInput": "box answers", "CombinedRewardInput": "both in one"}
    return " and ".join(names[kind.__name__] for kind in reward.input_types)
