"""The real FSDP engine on one process: what trains, what it returns, what it hands out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import verl.workers.engine.fsdp.transformer_impl as fsdp_impl
from verl.utils import tensordict_utils as tu
from verl.workers.engine.fsdp import FSDPEngineWithLMHead

from rollout.errors import WorkerError
from rollout.frames import load_frame_resized
from rollout.types import Sample
from tests.verl_ext.batches import as_rollouts, supervised_batch
from verl_ext.engine.fsdp import SegFSDPEngine
from verl_ext.objective.sft_loss import supervised_loss
from verl_ext.policy.adapters import plain_name
from verl_ext.policy.checkpoint import HEAD_FOLDER, load_policy
from verl_ext.policy.head import DECODER_PREFIXES, is_head_parameter
from verl_ext.policy.projection import Projection
from verl_ext.recipe import Recipe
from verl_ext.seg.batch import rows_without_dummy
from verl_ext.seg.episodes import micro_batch_episodes, non_tensor_rows
from verl_ext.supervised.dataset import SFTDataset

ROWS = (0, 1, 2, 3)
FAST = ("optim.lr=0.01",)
LORA = ("policy.lora.rank=4", "policy.lora.alpha=8", "policy.lora.dropout=0.25")


def data_of(worker: Any) -> Any:
    model = worker.model_config
    return supervised_batch(SFTDataset(["train"], model.tokenizer, None, model.processor), ROWS)


def parameters(worker: Any) -> dict[str, torch.Tensor]:
    """Whole parameters by their names without adapters' wrapping."""
    return {plain_name(n): p.detach().full_tensor().clone() for n, p in worker.engine.module.named_parameters()}


def train_step(worker: Any) -> dict[str, Any]:
    worker.set_loss_fn(partial(supervised_loss, config=None))
    return dict(tu.get(worker.train_batch(data_of(worker)), "metrics"))


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {n for n in before if not torch.equal(before[n], after[n])}


# ---- what trains ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpointing", ["true", "false"])
def test_frozen_vision_stays_and_the_rest_moves(
    build_worker: Callable[..., Any], tiny_recipe: Callable[..., Recipe], checkpointing: str
) -> None:
    recipe = tiny_recipe("sft", *FAST, "policy.freeze_vision=true", f"policy.gradient_checkpointing={checkpointing}")
    worker = build_worker(recipe)
    before = parameters(worker)
    metrics = train_step(worker)
    moved = changed(before, parameters(worker))
    assert metrics["grad_norm"] > 0
    assert not [n for n in moved if ".visual." in n]
    assert any(n.startswith("model.language_model.layers.0") for n in moved)
    assert "text_hidden_fcs.0.weight" in moved and any(n.startswith(DECODER_PREFIXES) for n in moved)
    frozen = [n for n in before if n.startswith("grounding_encoder.") and not n.startswith(DECODER_PREFIXES)]
    assert frozen and not moved & set(frozen)


def test_vision_trains_unless_it_is_frozen(
    build_worker: Callable[..., Any], tiny_recipe: Callable[..., Recipe]
) -> None:
    worker = build_worker(tiny_recipe("sft", *FAST))
    before = parameters(worker)
    train_step(worker)
    assert [n for n in changed(before, parameters(worker)) if ".visual." in n]


def test_learning_rates_by_part(build_worker: Callable[..., Any], tiny_recipe: Callable[..., Recipe]) -> None:
    rates = ("optim.lr=1e-3", "optim.projection_lr=2e-3", "optim.decoder_lr=3e-3", *LORA)
    engine = build_worker(tiny_recipe("sft", *rates)).engine
    names = {id(p): plain_name(n) for n, p in engine.module.named_parameters()}
    found = {g["initial_lr"]: [names[id(p)] for p in g["params"]] for g in engine.optimizer.param_groups}
    assert set(found) == {1e-3, 2e-3, 3e-3}
    assert all(n.startswith("text_hidden_fcs.") for n in found[2e-3])
    assert all(n.startswith("grounding_encoder.") for n in found[3e-3])
    assert not any(is_head_parameter(n) for n in found[1e-3])


# ---- adapters ---------------------------------------------------------------------------------------------------


def test_adapters_train_with_dropout_beside_embeddings_and_head(
    build_worker: Callable[..., Any], tiny_recipe: Callable[..., Recipe]
) -> None:
    worker = build_worker(tiny_recipe("sft", *FAST, *LORA, "policy.freeze_vision=true"))
    module = worker.engine.module
    dropouts = [m.p for n, m in module.named_modules() if "lora_dropout" in n and isinstance(m, torch.nn.Dropout)]
    assert dropouts and set(dropouts) == {0.25}
    assert not [n for n, _ in module.named_parameters() if "lora_" in n and (".visual." in n or "grounding" in n)]
    before = parameters(worker)
    train_step(worker)
    moved = changed(before, parameters(worker))
    weights = {n for n in moved if ".lora_" not in n and not is_head_parameter(n)}
    assert weights == {"model.language_model.embed_tokens.weight", "lm_head.weight"}
    assert any(".lora_B" in n for n in moved) and any(n.startswith(DECODER_PREFIXES) for n in moved)


def test_box_policies_learn_by_adapters_alone(
    build_worker: Callable[..., Any], tiny_recipe: Callable[..., Recipe]
) -> None:
    """No new token needs an embedding there (SPEC 3: a plain LoRA)."""
    boxes = ("method=veason_r1", "rollout.max_turns=1", "sft_loss={mask_ce: 0, dice: 0}")
    engine = build_worker(tiny_recipe("sft", *FAST, *LORA, *boxes)).engine
    trained = {plain_name(n) for n, p in engine.module.named_parameters() if p.requires_grad}
    assert trained and all(".lora_" in n or is_head_parameter(n) for n in trained)


def test_exported_adapters_are_merged(
    build_worker: Callable[..., Any],
    tiny_recipe: Callable[..., Recipe],
    tmp_path: Path,
) -> None:
    from verl_ext.policy.export import export_policy

    worker = build_worker(tiny_recipe("sft", *FAST, *LORA, "policy.packing=none"))  # forwards of single sequences below
    original = worker.model_config.local_path
    train_step(worker)
    export_policy(worker.engine, tmp_path / "policy")
    merged, untrained = load_policy(tmp_path / "policy"), load_policy(original)
    assert merged.state_dict().keys() == untrained.state_dict().keys()
    ids = torch.arange(20)[None]
    module = worker.engine.module.eval()
    with torch.no_grad():
        adapted = module(input_ids=ids, use_cache=False).logits
        whole = merged(input_ids=ids).logits
    allowed = adapted > -1e8  # the engine rules out tokens that the folder knows nothing about
    assert torch.allclose(adapted[allowed], whole[allowed], atol=1e-4)
    assert not torch.allclose(untrained(input_ids=ids).logits, whole, atol=1e-2)


def test_reinforcement_leaves_what_its_reference_shares(
    build_worker: Callable[..., Any], tiny_recipe: Callable[..., Recipe]
) -> None:
    """The reference is this model without its adapters, so nothing else of the language model may move."""
    recipe = tiny_recipe("sft", *FAST, *LORA, "policy.lora.dropout=0", "data.0.annotations=null")
    recipe = replace(recipe, stage="grpo")
    engine = build_worker(recipe).engine
    trained = {plain_name(n) for n, p in engine.module.named_parameters() if p.requires_grad}
    assert all(".lora_" in n or is_head_parameter(n) for n in trained)
    items, peft = engine.get_per_tensor_param(base_sync_done=True)
    sent = {n for n, _ in items}
    policy = load_policy(recipe.policy.path).state_dict()
    assert peft is None and sent == {n for n in policy if not is_head_parameter(n)}


# ---- what it returns --------------------------------------------------------------------------------------------


def rollout_batch(worker: Any) -> Any:
    batch = data_of(worker)
    prompts = [int(torch.nonzero(m)[0]) for m in batch["loss_mask"].unbind()]
    return as_rollouts(batch, prompts)


def images_of(worker: Any, batch: Any) -> list[dict[str, torch.Tensor]]:
    """Grids and pixels of each dialogue, the latter as the image processor makes them of files."""
    found = []
    for sample, inputs in zip(*(non_tensor_rows(batch, k) for k in ("sample", "multi_modal_inputs")), strict=True):
        clip = Sample.from_dict(sample).clip
        images = [load_frame_resized(clip, *row) for row in inputs["pictures"].tolist()]
        found.append(dict(worker.model_config.processor.image_processor(images=images, return_tensors="pt")))
    return found


def log_prob_pass(worker: Any, batch: Any) -> Any:
    tu.assign_non_tensor(batch, compute_loss=False, calculate_entropy=True)
    return worker.infer_batch(batch)


def test_log_prob_pass_returns_the_states_and_masks_of_a_direct_forward(
    build_worker: Callable[..., Any], tiny_recipe: Callable[..., Recipe]
) -> None:
    worker = build_worker(tiny_recipe("sft", *FAST))
    batch = rollout_batch(worker)
    ids, images = batch["input_ids"].unbind(), images_of(worker, batch)
    positions = batch["position_ids"].unbind()
    _, episodes = micro_batch_episodes(batch)
    out = log_prob_pass(worker, batch)
    policy = load_policy(worker.model_config.local_path)
    width = policy.grounding_encoder.prompt_width
    for b, states in enumerate(rows_without_dummy(out["seg_states"], width)):
        seg = torch.zeros(1, len(ids[b]), dtype=torch.bool)
        seg[0, [p for t in episodes[b]["turns"] for p in t["seg_positions"]]] = True
        with torch.no_grad():
            direct = policy(
                input_ids=ids[b][None],
                position_ids=positions[b][:, None],
                attention_mask=torch.ones_like(ids[b])[None],
                seg_mask=seg,
                **images[b],
            )
        assert torch.allclose(states, direct.seg_states, atol=1e-4)
        assert len(states) == len(episodes[b]["turns"])
    logp = [r.flatten() for r in rows_without_dummy(out["mask_log_prob"])]
    assert [len(r) for r in logp] == [len(e["turns"]) for e in episodes]
    assert all((r < 0).all() and torch.isfinite(r).all() for r in logp)
    targets = torch.cat(list(rows_without_dummy(out["mask_target"], 1024)))
    assert set(targets.unique().tolist()) <= {0, 1}
    assert "aux_bce" not in out.keys()  # noqa: SIM118


@pytest.mark.parametrize("frames", ["keyframe", "all"])
def test_second_pass_aims_at_the_first_pass_masks_and_agrees_exactly(
    build_worker: Callable[..., Any], tiny_recipe: Callable[..., Recipe], frames: str
) -> None:
    """Before any update, mask log-probs now and at rollout are the same numbers: the ratio starts at exactly 1."""
    worker = build_worker(tiny_recipe("sft", *FAST, f"objective.calibration.frames={frames}"))
    batch = rollout_batch(worker)
    first = log_prob_pass(worker, batch.clone(recurse=False))
    batch["old_mask_target"] = first["mask_target"]
    second = log_prob_pass(worker, batch)
    assert "mask_target" not in second.keys()  # noqa: SIM118
    per_token = {"keyframe": 1, "all": 1 + 2}[frames]
    found = [len(r) for r in rows_without_dummy(first["mask_target"], 1024)]
    assert found == [per_token * len(r) for r in rows_without_dummy(first["mask_log_prob"])]
    assert torch.equal(first["mask_log_prob"].values(), second["mask_log_prob"].values())
    assert torch.equal(first["log_probs"].values(), second["log_probs"].values())


def test_a_policy_without_head_returns_no_seg_fields(
    build_worker: Callable[..., Any], tiny_recipe: Callable[..., Recipe], tiny_policy: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_policy, tmp_path / "headless")
    shutil.rmtree(folder / HEAD_FOLDER)
    worker = build_worker(tiny_recipe("sft", *FAST, f"policy.path={folder}"))
    out = log_prob_pass(worker, rollout_batch(worker))
    assert {"log_probs", "entropy"} <= set(out.keys())
    assert not {"seg_states", "mask_log_prob", "mask_target", "aux_bce"} & set(out.keys())
    assert worker.engine.decoder_state() == {}
    metrics = train_step(worker)
    assert metrics["loss"] > 0 and "dice" not in metrics


def test_the_reference_has_no_head_and_the_same_log_probs(
    build_worker: Callable[..., Any], tiny_recipe: Callable[..., Recipe]
) -> None:
    recipe = tiny_recipe("sft", *FAST)
    actor, reference = build_worker(recipe), build_worker(recipe, forward_only=True)
    batch = rollout_batch(actor)
    mine = log_prob_pass(actor, batch.clone(recurse=False))
    theirs = log_prob_pass(reference, batch)
    assert "seg_states" not in theirs.keys()  # noqa: SIM118
    assert torch.equal(mine["log_probs"].values(), theirs["log_probs"].values())


@pytest.mark.parametrize("offload", [False, True])
def test_a_gpu_holds_the_reference_unless_told_otherwise(offload: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether verl, which would always offload it, gets the policy with which FSDP does."""
    seen: list[Any] = []
    monkeypatch.setattr("verl_ext.engine.fsdp.get_device_name", lambda: "cuda")
    monkeypatch.setattr("verl_ext.engine.fsdp.forbid_tokens", lambda *_: None)
    monkeypatch.setattr("verl_ext.engine.fsdp.forbidden_token_ids", lambda _: [])
    monkeypatch.setattr(
        FSDPEngineWithLMHead,
        "_build_fsdp_module",
        lambda self, module: seen.append(fsdp_impl.CPUOffloadPolicy(pin_memory=False)),
    )
    engine = object.__new__(SegFSDPEngine)
    engine._recipe = SimpleNamespace(policy=SimpleNamespace(offload_reference=offload))  # type: ignore[assignment]
    engine.model_config = SimpleNamespace(tokenizer=[])
    engine._build_fsdp_module(torch.nn.Linear(1, 1))
    assert (seen[0] is not None) == offload


# ---- what it hands out ------------------------------------------------------------------------------------------


def test_vllm_gets_the_language_model_and_the_pool_the_decoder(
    build_worker: Callable[..., Any], tiny_recipe: Callable[..., Recipe]
) -> None:
    engine = build_worker(tiny_recipe("sft", *FAST)).engine
    policy = load_policy(engine.model_config.local_path)
    sent = dict(engine.get_per_tensor_param()[0])
    assert sent.keys() == {n for n in policy.state_dict() if not is_head_parameter(n)}
    assert all(torch.equal(t, policy.state_dict()[n]) for n, t in sent.items())
    policy.grounding_encoder.load_decoder_state_dict(engine.decoder_state())  # strict about names
    assert engine.full_state().keys() == policy.state_dict().keys()
    hidden = torch.randn(3, policy.config.text_config.hidden_size)
    project = Projection()
    with pytest.raises(WorkerError, match=r"before the policy's \[SEG\] projection was known"):
        project(hidden[0].numpy())
    project.load(engine.projection_state())
    assert project._layers is not None and all(not p.requires_grad for p in project._layers.parameters())
    expected = policy.text_hidden_fcs(hidden).detach().numpy()
    np.testing.assert_allclose([project(h.numpy()) for h in hidden], expected, atol=1e-6)
