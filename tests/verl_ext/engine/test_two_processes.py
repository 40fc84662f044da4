"""Two FSDP processes compute what one computes: losses, metrics and gradients of a whole batch, without vLLM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.verl_ext.engines import on_two_processes
from tests.verl_ext.two_processes import measure
from verl_ext.policy.head import DECODER_PREFIXES
from verl_ext.recipe import Recipe, save_resolved

SETTINGS = ("optim.lr=1e-9", "trainer.micro_batch=1")  # so slow that both steps start from the same weights
METRICS = {
    "sft": ("loss", "lm", "mask_ce", "dice", "grad_norm"),
    "grpo": ("loss", "actor/pg_loss", "kl_loss", "aux/video", "seg/tokens", "seg/mask_log_prob", "grad_norm"),
}


@pytest.fixture(scope="module")
def two(tiny_recipe: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What rank 0 of two processes found."""
    folder = tmp_path_factory.mktemp("two")
    save_resolved(tiny_recipe("sft", *SETTINGS, "trainer.actor_processes=2"), folder / "resolved.yaml")
    found: dict[str, Any] = on_two_processes("tests.verl_ext.two_processes", folder)
    return found


@pytest.fixture
def one(build_worker: Any, activate: Callable[[Recipe], Recipe], tiny_recipe: Callable[..., Recipe]) -> dict[str, Any]:
    return measure(activate(tiny_recipe("sft", *SETTINGS)), 0, 1)


@pytest.mark.timeout(300)
def test_two_processes_compute_what_one_does(one: dict[str, Any], two: dict[str, Any]) -> None:
    for stage, names in METRICS.items():
        (metrics, gradients), (metrics_two, gradients_two) = one[stage], two[stage]
        for name in names:
            assert metrics_two[name] == pytest.approx(metrics[name], rel=1e-4, abs=1e-6), (stage, name)
        assert gradients.keys() == gradients_two.keys()
        size = torch.stack([g.norm() for g in gradients.values()]).norm()
        worst = max((gradients_two[n] - g).norm() / size for n, g in gradients.items())
        assert worst < 1e-4
        decoder = [prefix for prefix in DECODER_PREFIXES if ".sam2_model." in prefix]
        assert len(decoder) == 2
        for prefix in ("model.language_model", "model.visual", "text_hidden_fcs", *decoder):
            assert any(n.startswith(prefix) and g.abs().sum() > 0 for n, g in gradients.items()), (stage, prefix)
    assert one["grpo"][0]["seg/tokens"] == int(one["grpo"][0]["seg/tokens"]) > 0
