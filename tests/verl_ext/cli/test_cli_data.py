"""``data``, ``eval`` and ``score`` on a small synthetic data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rollout.environments.single_turn_boxes import BoxSettings
from rollout.errors import DataError
from rollout.types import Clip
from verl_ext.cli.main import app
from verl_ext.evaluation.job import Request, inference_settings, recipe_of, run
from verl_ext.evaluation.targets import dataset_target, keys_of
from verl_ext.recipe import Recipe
from verl_ext.recipe.rollout_settings import environment_of

QUICKSTART = Path(__file__).parents[3] / "recipes/quickstart/grpo.yaml"
CLIPS = ["--train", "1", "--valid", "2", "--test", "0", "--frames", "16", "16", "--size", "64"]


def invoke(*args: Any) -> Any:
    return CliRunner().invoke(app, [str(a) for a in args])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "set"
    result = invoke("data", "synthetic", folder, *CLIPS)
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())  # a long path wraps the line
    assert "clips 1 train, 2 valid" in said and "written" in said
    return folder


def test_making_the_same_again_says_so(root: Path) -> None:
    assert "was there already" in " ".join(invoke("data", "synthetic", root, *CLIPS).output.split())


def test_impossible_numbers_are_an_error_with_exit_code_2(tmp_path: Path) -> None:
    result = invoke("data", "synthetic", tmp_path / "x", "--frames", "30", "20")
    assert result.exit_code == 2 and "(30, 20)" in result.stderr
    assert not (tmp_path / "x").exists()


def test_check_passes_a_good_set_and_names_what_is_wrong_in_a_bad_one(root: Path) -> None:
    good = invoke("data", "check", "revos", root, "--json")
    assert good.exit_code == 0 and json.loads(good.stdout)["ok"] is True
    frame = next((root / "JPEGImages").rglob("00003.jpg"))
    kept = frame.read_bytes()
    frame.unlink()
    try:
        bad = invoke("data", "check", "revos", root)
    finally:
        frame.write_bytes(kept)
    assert bad.exit_code == 1 and frame.parent.name in bad.stdout and "00003" in bad.stdout


def test_score_of_nothing_is_not_a_crash_and_a_missing_file_is_named(root: Path, tmp_path: Path) -> None:
    missing = invoke("score", tmp_path / "no.jsonl", "--dataset", "revos", "--root", root)
    assert missing.exit_code == 2 and "no.jsonl" in missing.stderr
    (tmp_path / "results.jsonl").write_text("")
    where = ["--dataset", "revos", "--root", root, "--out", tmp_path / "s"]
    scored = invoke("score", tmp_path / "results.jsonl", *where, "--json")
    assert scored.exit_code == 0, scored.output
    scores = json.loads(scored.stdout)
    assert len(scores["missing"]) == len(scores["expressions"]) > 0
    assert (tmp_path / "s/scores.json").is_file()


def request(root: Path, policy: Path, **changes: Any) -> Request:
    target = dataset_target("revos", [str(root)], "valid", root / "out")
    return Request(policy, (target,), **changes)


def recipe_for(asked: Request) -> Recipe:
    return recipe_of(asked, asked.targets[0])


def test_a_folder_without_a_policy_is_refused_before_anything_starts(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no policy there"):
        list(run(request(root, tmp_path / "empty"), lambda *_: None))


def test_without_a_recipe_the_published_dialogue_is_used(root: Path, tmp_path: Path) -> None:
    (tmp_path / "my policy" / "segmentation_head").mkdir(parents=True)
    recipe = recipe_for(request(root, tmp_path / "my policy", device="cpu", overrides=("rollout.max_turns=2",)))
    assert recipe.policy.path.endswith("my policy") and recipe.policy.dtype == "float32"
    settings = inference_settings(recipe)
    assert settings.environment == "keyframe_exploration"
    assert settings.environment_settings["temporal_frames"] == 20
    assert (settings.environment_settings["max_turns"], settings.images) == (2, 20 + 8 + 6)


def test_a_policy_without_a_head_answers_with_boxes(root: Path, tmp_path: Path) -> None:
    recipe = recipe_for(request(root, tmp_path, device="cuda"))
    assert (recipe.method, inference_settings(recipe).environment) == ("veason_r1", "single_turn_boxes")


def test_box_frames_have_the_same_times_in_training_and_evaluation(root: Path, tmp_path: Path) -> None:
    recipe = recipe_for(request(root, tmp_path, device="cuda"))
    (name, trained), (same, evaluated) = (environment_of(recipe, evaluation=e) for e in (False, True))
    assert name == same and {k for k in trained | evaluated if trained.get(k) != evaluated.get(k)} == {"sampling"}
    clip = Clip("c", tuple(f"{t}.jpg" for t in range(60)), 4, 4, fps=6.0)
    assert BoxSettings.from_dict(evaluated).timestamps(clip, (0, 6, 13)) == (0, 1, 2)


def test_a_recipe_gives_dialogue_and_engine(root: Path, tmp_path: Path) -> None:
    changes = ("rollout.turn_length=50", "rollout.engine.max_model_len=900")
    recipe = recipe_for(request(root, tmp_path, recipe=QUICKSTART, overrides=changes))
    settings = inference_settings(recipe)
    assert (settings.turn_length, settings.max_tokens, settings.dtype) == (50, 900, "float32")
    assert recipe.policy.path == str(tmp_path)


def test_a_draw_of_expressions_is_fixed_and_in_order(root: Path) -> None:
    target = dataset_target("revos", [str(root)], "valid", root / "out")
    dataset = target.open()
    every, some = keys_of(target, dataset, None, seed=0), keys_of(target, dataset, 3, seed=0)
    assert len(some) == 3 and some == sorted(some, key=every.index)
    assert keys_of(target, dataset, 3, seed=0) == some
