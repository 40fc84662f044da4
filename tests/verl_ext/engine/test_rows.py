"""The real engine over rows gives what it gives over padded micro-batches: metrics, gradients, ``[SEG]`` outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.verl_ext.two_processes import measure
from verl_ext.policy.head import DECODER_PREFIXES
from verl_ext.recipe import Recipe

METRICS = {
    "sft": ("loss", "lm", "mask_ce", "dice", "grad_norm"),
    "grpo": ("loss", "actor/pg_loss", "kl_loss", "aux/video", "aux/keyframe", "seg/mask_log_prob", "grad_norm"),
}
SETTINGS = ("optim.lr=1e-9", "trainer.micro_batch=1")
WAYS = {
    "packed": ("policy.packing=packed",),
    "group": ("policy.packing=group",),
    "small rows, checkpointed": ("policy.packing=group", "policy.row_tokens=768", "policy.gradient_checkpointing=true"),
}


@pytest.fixture
def run(build_worker: Any, activate: Callable[[Recipe], Recipe], tiny_recipe: Callable[..., Recipe]) -> Any:
    return lambda *settings: measure(activate(tiny_recipe("sft", *SETTINGS, *settings)), 0, 1)


@pytest.mark.parametrize("extra", [(), ("policy.freeze_vision=true",), ("policy.lora.rank=4", "policy.lora.dropout=0")])
def test_a_step_over_rows_is_a_step_over_micro_batches(run: Any, extra: tuple[str, ...]) -> None:
    wanted = run("policy.packing=none", *extra)
    for way in WAYS.values():
        found = run(*way, *extra)
        for stage, names in METRICS.items():
            (metrics, gradients), (metrics_rows, gradients_rows) = wanted[stage], found[stage]
            for name in names:
                assert metrics_rows[name] == pytest.approx(metrics[name], rel=1e-4, abs=1e-6), (way, stage, name)
            assert gradients.keys() == gradients_rows.keys()
            for name, g in gradients.items():
                size = g.norm().clamp_min(1e-4 * metrics["grad_norm"])
                assert (gradients_rows[name] - g).norm() / size < 1e-3, (way, stage, name)
            assert any(n.startswith(DECODER_PREFIXES) for n in gradients)
