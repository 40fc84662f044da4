"""A real tiny Qwen2.5-VL in the engine: window attention, patch 14, both layouts, rows that show no picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rollout.frames import load_frame_resized
from rollout.types import Sample
from tests.verl_ext.box_steps import WITHOUT_PICTURES, dialogues, for_log_probs, measure, rollouts
from tests.verl_ext.engines import on_two_processes
from verl_ext.policy.checkpoint import load_policy
from verl_ext.recipe import Recipe, save_resolved

WAYS = ("none", "packed", "group")
SETTINGS = ("optim.lr=1e-9", "trainer.micro_batch=1")
BoxRecipe = Callable[..., Recipe]


@pytest.mark.parametrize("policy", ["untied", "published"])
@pytest.mark.parametrize("packing", WAYS)
def test_log_probs_are_those_of_transformers(
    build_worker: Callable[..., Any], tiny_box_recipe: BoxRecipe, packing: str, policy: str
) -> None:
    worker = build_worker(tiny_box_recipe("sft", *SETTINGS, f"policy.packing={packing}", policy=policy))
    rows = dialogues(worker, shown=(0, 3, 5))
    found = worker.infer_batch(for_log_probs(rollouts(rows)))["log_probs"].unbind()
    banned = torch.tensor(worker.engine.forbidden)
    model = load_policy(worker.model_config.local_path)
    known = len(worker.model_config.tokenizer)
    for row, logp in zip(rows, found, strict=True):
        logits = direct_logits(worker, model, row)
        logits[:, banned] = -1e9
        logits[:, known:] = -1e9  # spare rows of the embedding, which no tokenizer reads
        scored = row["loss_mask"].nonzero()[:, 0]
        wanted = logits.log_softmax(-1)[scored - 1, row["input_ids"][scored]]
        assert torch.allclose(logp[scored - 1], wanted, atol=2e-5)
    assert [bool(row["loss_mask"].any()) for row in rows] == [True] * 3 + [False] * len(WITHOUT_PICTURES)


def direct_logits(worker: Any, model: Any, row: dict[str, Any]) -> torch.Tensor:
    """(L, V) of the whole sequence, its pictures read and processed as anybody would."""
    shown: Any = {}
    if row["multi_modal_inputs"]:
        clip = Sample.from_dict(row["sample"]).clip
        images = [load_frame_resized(clip, *one) for one in row["multi_modal_inputs"]["pictures"].tolist()]
        shown = dict(worker.model_config.processor.image_processor(images=images, return_tensors="pt"))
    with torch.no_grad():
        ids, positions = row["input_ids"][None], row["position_ids"][:, None]
        logits: torch.Tensor = model(input_ids=ids, position_ids=positions, use_cache=False, **shown).logits[0]
    return logits


@pytest.fixture
def one(build_worker: Any, activate: Callable[[Recipe], Recipe], tiny_box_recipe: BoxRecipe) -> Any:
    return lambda *settings: measure(activate(tiny_box_recipe("sft", *SETTINGS, *settings)), 0, 1)


def test_a_process_whose_rows_show_no_picture_steps_with_the_others(
    tiny_box_recipe: BoxRecipe, one: Any, tmp_path: Path
) -> None:
    """Rank 1 has text alone, and FSDP's collectives of the vision tower wait for it (rows run the tower always)."""
    settings = (*SETTINGS, "policy.packing=none")
    save_resolved(tiny_box_recipe("sft", *settings, "trainer.actor_processes=2"), tmp_path / "resolved.yaml")
    found, gradients = on_two_processes("tests.verl_ext.box_steps", tmp_path)
    wanted, wanted_gradients = one(*settings)
    assert len(found) == len(wanted) // 2
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, wanted, strict=False))
    assert gradients.keys() == wanted_gradients.keys()
    assert any(".visual." in n and g.any() for n, g in gradients.items())
    total = torch.stack([g.norm() for g in wanted_gradients.values()]).norm()
    for name, g in wanted_gradients.items():
        assert (gradients[name] - g).norm() < 1e-4 * max(float(g.norm()), float(total) / 100), name


def test_everybody_may_read_a_policy(tiny_box_policies: dict[str, Path], tiny_policy: Path) -> None:
    """safetensors leaves files of mode 600."""
    for folder in (tiny_box_policies["untied"], tiny_policy):
        files = [f for f in folder.rglob("*") if f.is_file()]
        assert any(f.suffix == ".safetensors" for f in files)
        assert all(f.stat().st_mode & 0o444 == 0o444 for f in files)


def test_the_layouts_hold_what_they_claim(tiny_box_policies: dict[str, Path]) -> None:
    untied, published = (load_policy(tiny_box_policies[name]) for name in ("untied", "published"))
    tables = [(m.lm_head.weight, m.model.language_model.embed_tokens.weight) for m in (untied, published)]
    assert not tables[0][0].equal(tables[0][1]) and tables[1][0].data_ptr() == tables[1][1].data_ptr()
    assert len(list(tiny_box_policies["published"].glob("model-*-of-*.safetensors"))) == 2
    for model in (untied, published):
        vision = model.config.vision_config
        assert (vision.patch_size, vision.window_size) == (14, 56)
        assert len(vision.fullatt_block_indexes) < vision.depth  # some layers attend in windows
