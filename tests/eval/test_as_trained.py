"""A policy is asked as it was trained: the release's numbers, its own words, its kind's units."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from eval.benchmarks import load_benchmark
from eval.inference.dialogue import InferenceSettings
from rollout.prompts import BoxPromptSet, get_prompts
from tests.eval import eval_cli
from tests.eval.eval_cli import make_root, scripted_starts
from verl_ext.evaluation.job import Request, inference_settings, recipe_of
from verl_ext.recipe.asking import PROMPTS_FILE, prompts_text, units_of_policy

QWEN3 = {"model_type": "qwen3_vl", "vision_config": {"patch_size": 16, "spatial_merge_size": 2}}


def settings_of(policy: Path, *overrides: str) -> InferenceSettings:
    target: Any = SimpleNamespace(benchmark=load_benchmark("revos"), root=policy)
    return inference_settings(recipe_of(Request(policy, (target,), overrides=overrides, device="cuda"), target))


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    return tmp_path


def test_the_released_numbers(policy: Path) -> None:
    box = settings_of(policy)
    assert (box.turn_length, box.environment_settings["frames"], box.images) == (1024, 8, 10)
    asked = box.environment_settings
    assert (asked["prompts"], asked["units"], asked["unseen_seconds"]) == ("release_form", "pixels", True)
    assert settings_of(policy, "rollout.eval.box_unseen_seconds=false").environment_settings["unseen_seconds"] is False
    (policy / "segmentation_head").mkdir()
    seg = settings_of(policy)
    assert seg.turn_length == 1024 and seg.max_response_tokens >= 3 * 1024 + 2 * 700
    assert seg.max_prompt_tokens + seg.max_response_tokens <= seg.max_tokens
    assert seg.environment_settings["prompts"] == "full"
    assert settings_of(policy, "rollout.turn_length=300").turn_length == 300


def test_the_words_of_training(policy: Path) -> None:
    brief = get_prompts("brief", BoxPromptSet).to_dict()
    (policy / PROMPTS_FILE).write_text(prompts_text(brief | {"units": "thousandths"}))
    asked = settings_of(policy).environment_settings
    assert (asked["prompts"], asked["units"]) == ("brief", "thousandths")
    (policy / PROMPTS_FILE).write_text(prompts_text(brief | {"question": "{query}?"}))
    assert settings_of(policy).environment_settings["prompts"] == str(policy / PROMPTS_FILE)
    assert settings_of(policy, "policy.prompt_set=full").environment_settings["prompts"] == "full"


def test_an_untrained_qwen3_vl_answers_in_thousandths(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN3))
    asked = settings_of(tmp_path).environment_settings
    assert (asked["units"], asked["side"] % 32) == ("thousandths", 0)
    (tmp_path / PROMPTS_FILE).write_text(
        prompts_text(get_prompts("full", BoxPromptSet).to_dict() | {"units": "pixels"})
    )
    assert units_of_policy(tmp_path) == "pixels"
    (tmp_path / "config.json").write_text("{broken")
    assert units_of_policy(tmp_path) == "pixels"


def test_thousandths_are_drawn_where_they_are(tmp_path: Path) -> None:
    from rollout.environments.single_turn_boxes import SingleTurnBoxes
    from rollout.types import Clip, Expression, Sample
    from verl_ext.scoring import scoring_of

    sample = Sample(Clip("c", tuple(f"{t}.jpg" for t in range(20)), 32, 48), Expression("0", "x"))
    for units, box in (("pixels", [56, 28, 112, 56]), ("thousandths", [500, 250, 1000, 500])):
        given = {"sampling": "evenly_spaced", "side": 112, "units": units}
        env = SingleTurnBoxes.build(sample, given, 28)
        env.begin()
        stop = env.step(f'<answer>{{"keyframe_timestamp": 5, "bbox_2d_list": [{box}]}}</answer>')
        assert not isinstance(stop, list)
        request = scoring_of("single_turn_boxes", given, {}).mask_request(sample, env.episode(stop), [None])
        assert (request.keyframe, list(request.boxes)) == (5, [(24.0, 8.0, 48.0, 16.0)])


def test_prompts_by_name_and_by_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = make_root(tmp_path / "made")
    starts = scripted_starts(monkeypatch)
    next(starts)
    mine = tmp_path / "mine.yaml"
    mine.write_text('base: brief\nquestion: "{query}?"\n')
    args = ["--benchmark", made / "mine.yaml", "--root", made, "--max-samples", "1"]
    marks = set()
    for i, prompts in enumerate(("full", str(mine))):
        out = tmp_path / f"out{i}"
        done = eval_cli.evaluate(made / "policy", out, *args, "--prompts", prompts)
        assert done.exit_code == 0, done.output + str(done.exception)
        protocol = json.loads((out / "mine" / "run.json").read_text())["protocol"]
        assert protocol["prompt_set"] == prompts
        marks.add(protocol["prompts"])
    assert len(marks) == 2
    mine.write_text('base: brief\nquestion: "{query}!"\n')
    other = eval_cli.evaluate(made / "policy", tmp_path / "out1", *args, "--prompts", str(mine))
    assert other.exit_code == 2 and "were made with prompts = " in " ".join(other.stderr.split())
    bad = eval_cli.evaluate(made / "policy", tmp_path / "out2", *args, "--prompts", "long")
    assert bad.exit_code == 2 and "no box prompts 'long'; there are full, brief" in " ".join(bad.stderr.split())
