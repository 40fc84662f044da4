"""The box policy's quickstart: the same stages but one, its own data, policy, SAM 2 and recipes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import verl_ext.quickstart
import verl_ext.quickstart.run as quickstart
from eval.results.results_file import RESULTS_FILE, ResultsFile
from rollout.errors import RecipeError
from tests.eval.clips import record, samples
from verl_ext.cli.main import app
from verl_ext.quickstart import evaluation, stages
from verl_ext.quickstart.boxes import TRACES, box_settings
from verl_ext.quickstart.settings import Layout, QuickstartSettings, stage_recipe
from verl_ext.quickstart.summary import greedy_format, share_of_format
from verl_ext.recipe import check_ready


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_its_recipes_lie_in_its_folder_and_follow_each_other(tmp_path: Path, device: str) -> None:
    layout, settings = Layout(tmp_path), box_settings(device)
    cold, grpo = (stage_recipe(layout, name, settings, 3) for name in settings.stages)
    assert (cold.method, grpo.method, cold.stage, grpo.stage) == ("veason_r1", "veason_r1", "sft", "grpo")
    assert cold.policy.path == str(layout.untrained) and grpo.policy.path == str(layout.cold_start / "policy")
    assert cold.data[0].annotations == str(layout.data / TRACES) and grpo.pool.checkpoint == str(layout.sam2)
    assert {cold.seed, grpo.seed} == {3} and cold.device == grpo.device == device
    assert set(grpo.rewards.weights) == {f"veason_{n}" for n in ("format", "keyframe", "spatial", "consistency")}


def test_stages_are_numbered_by_what_there_is() -> None:
    assert list(quickstart.stage_names(QuickstartSettings()).values())[2].startswith("3/7 segmentation")
    boxes = quickstart.stage_names(box_settings())
    assert "segmentation" not in boxes and list(boxes.values())[-1] == "6/6 report"


def test_a_folder_of_the_other_method_is_not_taken_for_this_one(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    quickstart.check_continues(layout, 1, QuickstartSettings())
    assert json.loads((tmp_path / "quickstart.json").read_text()) == {"seed": 1, "device": "cpu"}  # as it ever was
    with pytest.raises(RecipeError, match=r"holds the quickstart of seed 1, device cpu, asked .* method veason_r1"):
        quickstart.check_continues(layout, 1, box_settings())


def test_the_mark_of_its_recipes_is_its_own() -> None:
    """Figures of one method stay those of this version when the other's recipes change."""
    marks = [quickstart.settings_facts(s)["recipes"] for s in (QuickstartSettings(), box_settings())]
    assert marks[0] != marks[1]


def test_data_and_policy_make_a_recipe_that_can_start(tmp_path: Path) -> None:
    """Real clips, traces, SAM 2 and Qwen2.5-VL, tiny; a second call makes nothing again."""
    layout = Layout(tmp_path)
    settings = replace(box_settings(), clips={"train": 3, "valid": 1, "test": 1}, frames=(12, 12), warm_up_steps=2)

    def silent(done: int, total: int, what: str) -> None: ...

    for _ in range(2):
        stages.make_data(layout, settings, 0, silent)
        stages.build_policy(layout, settings, 0, silent)
    assert stages.what_is_there(layout)["data"] and stages.what_is_there(layout)["policy"]
    assert check_ready(stage_recipe(layout, "cold_start.yaml", settings, 0)) == []
    (layout.cold_start).mkdir()
    (layout.cold_start / "policy").symlink_to(layout.untrained)
    assert check_ready(stage_recipe(layout, "grpo.yaml", settings, 0)) == []
    (other,) = settings.other_layouts
    found = evaluation.other_samples(layout, other)
    assert found and {s.clip.name for s in found}.isdisjoint({s.clip.name for s in samples_of(layout)})


def samples_of(layout: Layout) -> list[Any]:
    from data_construction.readers import open_dataset

    return list(open_dataset("revos", layout.data, "train").samples())


def test_the_format_is_that_of_boxes(tmp_path: Path) -> None:
    sample, *_ = samples(tmp_path)
    good = record(sample)
    said = '<think>It is there.</think><answer>{"keyframe_timestamp": 1, "bbox_2d_list": [[1, 2, 3, 4]]}</answer>'
    with ResultsFile(tmp_path / RESULTS_FILE) as results:
        for i, text in enumerate((said, "no")):
            results.append(replace(good, expression_id=str(i), turns=(replace(good.turns[0], text=text),)))
    assert greedy_format(tmp_path, "veason_r1") == 0.5
    assert share_of_format({"val/reward/veason_format": 1.5}) == 0.75
    assert share_of_format({"val/reward/strict_format": 0.5}) == 0.75


def test_the_command_takes_the_method(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []
    monkeypatch.setattr(verl_ext.quickstart, "run_quickstart", lambda *given: ran.append(given))
    for arguments in ([], ["--method", "veason_r1"]):
        assert CliRunner().invoke(app, ["quickstart", *arguments]).exit_code == 0
    assert [(str(out), settings.method) for out, _, _, settings in ran] == [
        ("runs/quickstart", "videoseg_o3"),
        ("runs/quickstart_veason_r1", "veason_r1"),
    ]
    refused = CliRunner().invoke(app, ["quickstart", "--method", "veason_r1", "--world", "badges"])
    assert refused.exit_code == 2 and len(ran) == 2
