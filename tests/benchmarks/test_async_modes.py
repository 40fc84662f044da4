"""The three modes' recipes, and the figures that are read from their steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.async_modes import MODES, settings_of
from benchmarks.grpo_step import throughput
from verl_ext.quickstart.settings import ONE_GPU
from verl_ext.recipe import load_recipe

RECIPE = Path(__file__).parents[2] / "recipes" / "quickstart" / "grpo.yaml"


@pytest.mark.parametrize("gpus", [0, 2, 4])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_uses_all_gpus(mode: str, gpus: int) -> None:
    recipe = load_recipe(RECIPE, [*(ONE_GPU if gpus else ()), *settings_of(mode, gpus)])
    assert recipe.trainer.mode == mode
    apart = mode == "separate_async"
    assert recipe.processes_per_node == (gpus or 1 + apart)
    assert recipe.rolls_out_apart == apart == (recipe.trainer.rollout_processes > 0)


def test_the_first_step_is_left_out() -> None:
    rows = [
        {"perf/total_num_tokens": tokens, "timing_s/step": seconds, "timing_s/update_weights": sync, **more}
        for tokens, seconds, sync, more in (
            (9, 90.0, 9.0, {"pool/hidden_share": 0.0, "rollout/staleness_mean": 0.0}),
            (100, 2.0, 0.2, {"pool/hidden_share": 1.0, "rollout/staleness_mean": 1.0}),
            (300, 3.0, 0.4, {"pool/hidden_share": 0.5, "rollout/staleness_mean": 2.0}),
        )
    ]
    found = throughput(rows)
    assert found["tokens_per_second"] == 80.0 and found["sync_seconds"] == pytest.approx(0.3)
    assert found["hidden_share"] == 0.75 and found["staleness"] == 1.5
