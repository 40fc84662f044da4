"""verl 0.9.1's micro-batches of Qwen2.5-VL without pictures under transformers 5, and the cure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import verl.models.transformers.qwen2_vl as qwen2_vl
from verl.models.transformers.monkey_patch import apply_monkey_patch

from verl_ext.engine import text_only_rows
from verl_ext.policy.checkpoint import load_policy

IDS = torch.tensor([[5, 6, 7, 8, 9]])
POSITIONS = torch.arange(5).expand(4, 1, 5)


@pytest.fixture
def wanted(tiny_box_policies: dict[str, Path]) -> torch.Tensor:
    """transformers' own logits of a text."""
    with torch.no_grad():
        out: torch.Tensor = load_policy(tiny_box_policies["untied"])(IDS, position_ids=POSITIONS).logits
    return out


@pytest.fixture
def model(wanted: torch.Tensor, tiny_box_policies: dict[str, Path]) -> Iterator[Any]:
    """The same model with verl's forwards."""
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as stock

    classes = (stock.Qwen2_5_VLModel, stock.Qwen2_5_VLForConditionalGeneration)
    with patch.object(classes[0], "forward"), patch.object(classes[1], "forward"):
        loaded = load_policy(tiny_box_policies["untied"])
        apply_monkey_patch(loaded, use_remove_padding=False)
        yield loaded


def test_upstream_still_raises(model: Any) -> None:
    """Fails once verl is cured: then remove ``verl_ext.engine.text_only_rows``."""
    with (
        patch.object(qwen2_vl, "_get_input_embeds", text_only_rows.stock_input_embeds),
        pytest.raises(AttributeError, match="mean"),
    ):
        model(input_ids=IDS, position_ids=POSITIONS, use_cache=False)


def test_a_row_without_pictures_is_computed_as_transformers_does_and_gathers_the_tower(
    model: Any, wanted: torch.Tensor
) -> None:
    """The tower takes part, with gradients of 0: a process without pictures must join every collective."""
    text_only_rows.cure_text_only_rows()
    out = model(input_ids=IDS, position_ids=POSITIONS, use_cache=False)
    assert torch.equal(out.logits, wanted)
    out.logits.sum().backward()
    tower = [p.grad for p in model.model.visual.parameters() if p.requires_grad]
    assert tower and all(g is not None and not g.any() for g in tower)
    assert model.lm_head.weight.grad.any()
