"""The study's bookkeeping on figures of our own: arms, paired gains, what is left, and the contract."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import verl_ext.quickstart.evaluation as quickstart_evaluation
from benchmarks import exploring
from benchmarks.exploring_arms import BASE, SUPERVISED, WORLD_ARMS, Arm
from verl_ext.quickstart.exploring import exploring_settings
from verl_ext.quickstart.settings import Layout, QuickstartSettings

EXPRESSIONS = [f"clip{n}/0" for n in range(8)]


def evaluated(jf: float, hit: float = 50.0, spread: float = 0.0, turns: float = 2.0) -> dict[str, Any]:
    by = {name: jf + spread * (-1) ** n for n, name in enumerate(EXPRESSIONS)}
    return {"by_expression": by, "jf": jf, "keyframe_hit": hit, "interval_iou": 30.0, "turns": turns, "format": 1.0}


def test_paired_gains_and_arms_over_the_base() -> None:
    arms = [Arm(name, seed) for seed in (0, 1, 2) for name in (BASE, "published", "sum")]
    found = {"cold_start": evaluated(60.0)}
    for seed, base in enumerate((80.0, 84.0, 88.0)):
        found[f"arms/{BASE}/seed{seed}"] = evaluated(base, hit=90.0 + seed, spread=2.0)
        found[f"arms/published/seed{seed}"] = evaluated(base + seed, hit=91.0)
    figures = exploring.study_figures(found, arms)
    assert figures["cold_start"]["jf"] == 60.0 and "by_expression" not in figures["cold_start"]
    assert figures["rl"]["jf_gain"] == [20.0, 24.0, 28.0] and figures["rl"]["keyframe_hit_gain"] == [40.0, 41.0, 42.0]
    se = float(np.std([2.0, -2.0] * 4, ddof=1) / 8**0.5)
    assert figures["rl"]["jf_gain_se"] == pytest.approx([se] * 3, abs=1e-3)
    assert figures["arms"][BASE]["jf_gain"] == 0.0 and figures["arms"][BASE]["seeds"] == [0, 1, 2]
    published = figures["arms"]["published"]
    assert published["jf_gain"] == 1.0 and published["se"] == pytest.approx(1 / 3**0.5, abs=1e-3)
    assert published["over_cold_start"] == [20.0, 25.0, 30.0]
    assert "sum" not in figures["arms"], "what was not evaluated has no figures"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("world", "name"), [(w, name) for w, arms in WORLD_ARMS.items() for name in arms])
def test_every_arm_is_a_recipe_that_holds_together(world: str, name: str, device: str, tmp_path: Path) -> None:
    study, settings = Layout(tmp_path), exploring.SETTINGS[world](device, 7)
    assert settings.world == world
    recipe = Arm(name, 3).recipe(study, settings)
    assert (recipe.seed, recipe.device, recipe.trainer.steps) == (3, device, 7)
    assert recipe.policy.path == str(study.cold_start / "policy")
    assert recipe.output_dir == str(tmp_path / "arms" / name / "seed3")
    base = Arm(BASE, 3).recipe(study, settings)
    if name == SUPERVISED:
        assert recipe.stage == "sft" and recipe.trainer.prompts_per_step == base.rollouts_per_step
        assert recipe.optim.lr == base.optim.lr
        return
    assert recipe.stage == "grpo" and recipe.rollouts_per_step == base.rollouts_per_step
    assert name == BASE or (recipe.objective, recipe.rewards) != (base.objective, base.rewards), "it changes something"


def test_among_twins_only_the_arms_that_say_so_are_taught_by_the_auxiliary_loss(tmp_path: Path) -> None:
    study, settings = Layout(tmp_path), exploring.SETTINGS["twins"]("cuda", None)
    recipes = {name: Arm(name, 0).recipe(study, settings) for name in WORLD_ARMS["twins"] if name != SUPERVISED}
    taught = {name for name, recipe in recipes.items() if recipe.objective.aux_coef}
    assert taught == {name for name in recipes if "auxiliary_loss" in name} and len(taught) == 4
    assert {n for n in recipes if recipes[n].objective.calibration.enabled} == set(recipes) - {
        BASE,
        "auxiliary_loss",
        "auxiliary_loss_alone",
    }
    forms = {name: (r.objective.calibration.form, r.objective.calibration.sigma) for name, r in recipes.items()}
    assert forms["drawn_states"] == ("state", 0.3) and forms["wide_drawn_states"] == ("state", 1.0)
    assert forms["published"][0] == "mask"


def test_advantages_of_the_auxiliary_loss_alone_are_nothing(tmp_path: Path) -> None:
    """Whatever rewards there are: the policy term is then far below the rounding of the auxiliary loss."""
    import torch

    from verl_ext.seg.losses import group_advantages

    recipe = Arm("auxiliary_loss_alone", 0).recipe(Layout(tmp_path), exploring.SETTINGS["twins"]("cpu", None))
    rewards, groups = torch.tensor([-5.0, 8.5, 1.0, 1.0]), torch.zeros(4, dtype=torch.long)
    assert float(group_advantages(rewards, groups, recipe.objective.advantage_eps).abs().max()) < 1e-7


def test_an_arm_of_another_world_is_refused(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr("sys.argv", ["exploring.py", "--world", "twins", "--arms", "credit_by_part"])
    with pytest.raises(SystemExit, match="2"):
        exploring.main()
    assert "--arms credit_by_part: world twins has rl_without_calibration" in capsys.readouterr().err


def test_the_gpu_policy_is_of_the_size_that_the_study_names() -> None:
    import torch
    from transformers import Qwen3VLForConditionalGeneration

    from verl_ext.tiny.build import TinyPolicy, tiny_config
    from verl_ext.tiny.tokenizer import train_tokenizer

    widths = exploring_settings("cuda").policy
    tokenizer = train_tokenizer(["the barred disc"], merges=20)
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(tiny_config(tokenizer, TinyPolicy(**widths)))
    assert 20e6 < sum(p.numel() for p in model.parameters()) < 100e6


def test_what_does_not_fit_the_time_is_left_for_the_next_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []
    monkeypatch.setattr(exploring, "cold_start", lambda *_, **__: None)
    proved = {"oracles": {"ground_truth_keyframe": {"jf": 99.0}, "nothing": {"jf": 0.0}}, "readers": {}}
    monkeypatch.setattr(exploring, "oracles", lambda *_: proved)
    monkeypatch.setattr(exploring, "figures_of", lambda scores, folder: scores)
    monkeypatch.setattr(Arm, "train", lambda self, *_: trained.append(self.key))
    monkeypatch.setattr(Arm, "done", lambda self, study: self.key in trained)
    monkeypatch.setattr(Arm, "policy", lambda self, study: study.out / self.key)
    asked: list[list[str]] = []

    def evaluate(study: Layout, settings: Any, seed: int, policies: dict[str, Path], progress: Any) -> dict[str, Any]:
        asked.append(list(policies))
        return {stage: evaluated(60.0 if stage == "cold_start" else 80.0) for stage in policies}

    monkeypatch.setattr(quickstart_evaluation, "evaluate_stages", evaluate)
    clock = iter(range(0, 1000, 30))
    monkeypatch.setattr(exploring, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    names = [BASE, "published", "sum"]
    first = exploring.run_study(Layout(tmp_path), QuickstartSettings(), names, [0], minutes=1.3)
    assert trained == [f"{BASE}/seed0"] and first["left"] == ["published/seed0", "sum/seed0"]
    assert first["oracles"] == {"ground_truth_keyframe": 99.0, "nothing": 0.0} and first["cold_start"]["jf"] == 60.0
    assert first["rl"]["jf_gain"] == [20.0] and set(first["arms"]) == {BASE}
    again = exploring.run_study(Layout(tmp_path), QuickstartSettings(), names, [0], minutes=None)
    assert trained == [f"{n}/seed0" for n in names] and again["left"] == [] and set(again["arms"]) == set(names)
    assert asked[1] == ["cold_start", *(f"arms/{n}/seed0" for n in names)]
    assert {"oracles", "cold_start", "rl", "arms"} <= set(again)
