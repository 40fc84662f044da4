"""Forms of our own in the real engine: drawn states, an auxiliary loss for the head alone, gradients by term."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.utils.padding import response_from_nested

from tests.verl_ext.batches import jagged
from tests.verl_ext.engine.test_engine import FAST, log_prob_pass, rollout_batch
from tests.verl_ext.engines import gradients_of_step
from verl_ext.objective.rl_loss import rl_loss
from verl_ext.policy.head import is_head_parameter
from verl_ext.recipe import Recipe
from verl_ext.run.verl_config import grpo_config
from verl_ext.seg.batch import rows_without_dummy
from verl_ext.seg.drawn_states import DRAW_STATES

STATE = ("objective.calibration.form=state", "objective.calibration.sigma=0.5")
OFF = "trainer.grad_every=0"


def loss_of(recipe: Recipe, **more: Any) -> Any:
    config = omega_conf_to_dataclass(grpo_config(replace(recipe, stage="grpo")).actor_rollout_ref.actor)
    return partial(rl_loss, config=config, **more)


def updated(worker: Any, draw: bool = True) -> tuple[Any, Any]:
    """(the rollout's own pass, the batch of the update that follows it)."""
    batch = rollout_batch(worker)
    first = batch.clone(recurse=False)
    tu.assign_non_tensor(first, **{DRAW_STATES: draw})
    found = log_prob_pass(worker, first)
    old = response_from_nested(found["log_probs"], batch["response_mask"])
    batch["old_log_probs"] = batch["ref_log_prob"] = old
    masks = batch["response_mask"].unbind()
    batch["advantages"] = jagged([(1.0 - b) * m for b, m in enumerate(masks)])
    batch["old_mask_target"], batch["old_mask_log_prob"] = found["mask_target"], found["mask_log_prob"]
    return found, batch


def test_noise_is_drawn_in_the_rollouts_pass_and_the_ratio_starts_at_one(
    build_worker: Callable[..., Any], tiny_recipe: Callable[..., Recipe]
) -> None:
    recipe = tiny_recipe("sft", *FAST, *STATE, OFF)
    worker = build_worker(recipe)
    held_out, _ = updated(worker, draw=False)
    found, batch = updated(worker)
    width = worker.engine.module.grounding_encoder.prompt_width
    plain, drawn = (torch.cat(list(rows_without_dummy(f["seg_states"], width))) for f in (held_out, found))
    assert 0.35 < float((drawn - plain).std()) < 0.65
    assert torch.equal(found["mask_target"].values(), found["seg_states"].values())
    again = log_prob_pass(worker, batch.clone(recurse=False))
    assert torch.equal(again["mask_log_prob"].values(), found["mask_log_prob"].values())
    metrics, _ = gradients_of_step(worker, batch, loss_of(recipe, aux_coef=0.0))
    assert metrics["actor/ppo_kl"] == 0.0 and metrics["actor/pg_clipfrac"] == 0.0


def test_two_passes_draw_different_noise(build_worker: Callable[..., Any], tiny_recipe: Callable[..., Recipe]) -> None:
    worker = build_worker(tiny_recipe("sft", *FAST, *STATE, OFF))
    first, second = updated(worker)[0], updated(worker)[0]
    assert not torch.equal(first["seg_states"].values(), second["seg_states"].values())


@pytest.mark.parametrize("trains", ["all", "head"])
def test_an_auxiliary_loss_for_the_head_leaves_the_language_model(
    build_worker: Callable[..., Any], tiny_recipe: Callable[..., Recipe], trains: str
) -> None:
    recipe = tiny_recipe("sft", *FAST, OFF, f"objective.aux_trains={trains}")
    worker = build_worker(recipe)
    _, batch = updated(worker)
    metrics, gradients = gradients_of_step(worker, batch, loss_of(recipe, aux_coef=0.2, only="auxiliary"))
    assert metrics["aux/keyframe"] > 0
    size = {
        head: sum(float(g.norm()) for n, g in gradients.items() if is_head_parameter(n) is head)
        for head in (True, False)
    }
    assert size[True] > 0
    assert (size[False] > 0) is (trains == "all")


def test_masks_below_the_least_iou_do_not_count_in_reinforcement_alone(
    build_worker: Callable[..., Any], tiny_recipe: Callable[..., Recipe]
) -> None:
    """Untrained masks are all far from the truth."""
    recipe = tiny_recipe("sft", *FAST, OFF, "objective.aux_min_iou=0.9")
    worker = build_worker(recipe)
    _, batch = updated(worker)
    metrics, gradients = gradients_of_step(worker, batch, loss_of(recipe, aux_coef=0.2, only="auxiliary"))
    assert metrics["aux/keyframe"] == metrics["aux/video"] == metrics["aux/kept"] == 0.0
    assert not any(float(g.norm()) for g in gradients.values())


def test_gradient_norms_by_term_are_logged_and_change_nothing(
    build_worker: Callable[..., Any], tiny_recipe: Callable[..., Recipe]
) -> None:
    found: dict[str, tuple[dict[str, Any], dict[str, torch.Tensor]]] = {}
    for name, every in (("with", 10), ("without", 0)):
        recipe = tiny_recipe("sft", *FAST, f"trainer.grad_every={every}")
        worker = build_worker(recipe)
        _, batch = updated(worker)
        tu.assign_non_tensor(batch, micro_batch_size_per_gpu=len(batch))
        found[name] = gradients_of_step(worker, batch, loss_of(recipe))
        once_more, _ = gradients_of_step(worker, batch, loss_of(recipe))
        assert not any(key.startswith("grad/") for key in once_more), "only every tenth step"
    metrics, gradients = found["with"]
    for name, gradient in found["without"][1].items():
        assert torch.equal(gradient, gradients[name]), name
    logged = {key: value for key, value in metrics.items() if key.startswith("grad/")}
    assert set(logged) == {
        f"grad/{term}/{module}"
        for term in ("text", "calibration", "auxiliary")
        for module in ("language_model", "projection", "mask_decoder")
    }
    assert logged["grad/text/language_model"] > 0 and logged["grad/text/mask_decoder"] == 0.0
    assert logged["grad/auxiliary/mask_decoder"] > 0 and logged["grad/auxiliary/projection"] > 0
    worker = build_worker(tiny_recipe("sft", *FAST, OFF))
    _, batch = updated(worker)
    _, alone = gradients_of_step(worker, batch, loss_of(recipe, only="text"))
    language = torch.stack([g.norm() for n, g in alone.items() if not is_head_parameter(n)]).norm()
    assert float(language) == pytest.approx(logged["grad/text/language_model"], rel=1e-3)
