"""What the quickstart says about itself stays true over interruptions, and nothing is lost unseen."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

import eval.inference.run
import eval.scores.files
import verl_ext.quickstart.report
import verl_ext.quickstart.run as quickstart
from benchmarks import grpo_step, learning
from rollout.errors import EnvironmentMismatchError, RecipeError, WorkerError
from verl_ext.quickstart import evaluation, stages, summary
from verl_ext.quickstart.run import StageClock, run_facts, run_quickstart
from verl_ext.quickstart.settings import Layout, QuickstartSettings, stage_recipe


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each look at the clock is ten seconds later; memory is what the stage's number says."""
    seen = iter(range(0, 100_000, 10))
    monkeypatch.setattr(quickstart, "time", SimpleNamespace(perf_counter=lambda: float(next(seen))))
    yield


def test_time_and_memory_of_an_interrupted_stage_are_kept(
    tmp_path: Path, console: Console, ticks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verl_ext.quickstart.memory.tree_bytes", lambda root: 3 << 30)
    first = StageClock(tmp_path / "seconds.json", console)
    with first.stage("1"):
        pass
    with pytest.raises(KeyboardInterrupt), first.stage("2"):
        raise KeyboardInterrupt
    monkeypatch.setattr("verl_ext.quickstart.memory.tree_bytes", lambda root: 1 << 30)
    again = StageClock(tmp_path / "seconds.json", console)
    assert (again.total, again.peak_memory) == (20.0, 3.0)
    with again.stage("1", there=True):  # only looked at
        pass
    with again.stage("2"):
        pass
    assert again.seconds == {"1": 10.0, "2": 20.0} and again.peak_memory == 3.0
    assert console.file.getvalue().count("was there already") == 1  # type: ignore[attr-defined]
    assert json.loads((tmp_path / "seconds.json").read_text())["finished"] == ["1", "2"]
    with again.stage("2"):  # its result was removed: what it took before is no longer part of the run
        pass
    assert again.seconds == {"1": 10.0, "2": 10.0}


def test_the_summary_counts_every_stage_once(
    tmp_path: Path, console: Console, ticks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("make_data", "build_policy", "segmentation", "cold_start", "reinforce"):
        monkeypatch.setattr(stages, name, lambda *_: None)
    monkeypatch.setattr(evaluation, "evaluate_stages", lambda *_: None)
    monkeypatch.setattr(summary, "summarise", lambda *_: {"jf_rl": 50.0})
    monkeypatch.setattr(verl_ext.quickstart.report, "write_report", lambda folder, out: out)
    monkeypatch.setattr(quickstart, "_tell", lambda *_: None)
    for _ in range(2):
        found = run_quickstart(tmp_path, 3, console)
        written = json.loads((tmp_path / "summary.json").read_text())
        assert written == json.loads(json.dumps(found))
        assert written["seconds"] == 70.0 == sum(written["stage_seconds"].values())
        assert len(written["stage_seconds"]) == 7 and written["peak_memory_gib"] > 0
        assert written["seed"] == 3 and written["version"] and written["settings"]["test_samples"] == 150


def test_expressions_without_a_prediction_are_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, settings = Layout(tmp_path), QuickstartSettings()
    lost: dict[str, list[str]] = {"untrained": [], "rl": ["clip/3"]}
    evaluated: list[str] = []

    def evaluate(cluster: Any, samples: Any, out: Path, **_: Any) -> None:
        evaluated.append(out.name)
        out.mkdir(parents=True, exist_ok=True)
        (out / "scores.json").write_text("{}")

    scores = {"untrained": SimpleNamespace(missing=[], failed=[])}
    scores["rl"] = SimpleNamespace(missing=lost["rl"], failed=[])
    monkeypatch.setattr(evaluation, "stage_recipe", lambda *_: SimpleNamespace(device="cpu"))
    monkeypatch.setattr(evaluation, "test_samples", lambda *_: [1, 2])
    monkeypatch.setattr("verl_ext.evaluation.settings.inference_settings", lambda recipe: None)
    monkeypatch.setattr(eval.inference.run, "start_cluster", lambda *_: SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(eval.inference.run, "use_policy", lambda *_: None)
    monkeypatch.setattr(eval.inference.run, "evaluate", evaluate)
    monkeypatch.setattr(eval.scores.files, "read_scores", lambda path: scores[path.parent.name])
    policies = {"untrained": tmp_path, "rl": tmp_path}

    with pytest.raises(WorkerError, match=r"rl: 1 of 2 held-out expressions have no prediction, the first clip/3"):
        evaluation.evaluate_stages(layout, settings, 0, policies, lambda *_: None)
    lost["rl"].clear()
    evaluation.evaluate_stages(layout, settings, 0, policies, lambda *_: None)
    assert evaluated == ["untrained", "rl"]  # nothing failed this time, so nothing is done again
    lost["rl"].append("clip/3")
    with pytest.raises(WorkerError):
        evaluation.evaluate_stages(layout, settings, 0, policies, lambda *_: None)
    assert evaluated == ["untrained", "rl", "rl"]


def test_a_policy_that_is_trained_anew_is_evaluated_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout, settings = Layout(tmp_path), QuickstartSettings()
    monkeypatch.setattr("verl_ext.reinforce.run.train_grpo", lambda *_, **__: tmp_path)
    (layout.evaluation("rl")).mkdir(parents=True)
    (layout.evaluation("untrained")).mkdir()
    assert stages.reinforce(layout, settings, 0, lambda *_: None) == tmp_path
    assert not layout.evaluation("rl").exists() and layout.evaluation("untrained").exists()


@pytest.mark.parametrize("name", ["segmentation.yaml", "cold_start.yaml", "grpo.yaml"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_any_folder_name_will_do(name: str, device: str, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "run #1: mine")
    recipe = stage_recipe(layout, name, QuickstartSettings(device=device), 5)
    assert all(source.root == str(layout.data) for source in [*recipe.data, *recipe.val])
    assert recipe.output_dir.startswith(str(layout.out)) and recipe.policy.path.startswith(str(layout.out))
    assert recipe.seed == 5 and recipe.device == device


def test_a_short_run_practises_what_was_taught_and_a_long_one_on_a_gpu_everything_alike(tmp_path: Path) -> None:
    short, long = (
        stage_recipe(Layout(tmp_path), "grpo.yaml", QuickstartSettings(device=device), 0) for device in ("cpu", "cuda")
    )
    cold_start = stage_recipe(Layout(tmp_path), "cold_start.yaml", QuickstartSettings(), 0)
    assert [(d.kinds, d.weight) for d in short.data] == [(d.kinds, d.weight) for d in cold_start.data]
    taught, others = long.data
    assert set(QuickstartSettings().taught_kinds) < set(taught.kinds) and short.data[1].weight < 1
    assert {*taught.kinds, *others.kinds} == set(QuickstartSettings().kinds) and taught.weight == others.weight == 1


def test_a_folder_of_another_seed_or_device_is_not_taken_for_this_one(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for _ in range(2):
        quickstart.check_continues(layout, 1, QuickstartSettings())
    with pytest.raises(RecipeError, match=r"holds the quickstart of seed 1, device cpu, asked for is seed 2, device"):
        quickstart.check_continues(layout, 2, QuickstartSettings())
    with pytest.raises(RecipeError, match="device cuda"):
        quickstart.check_continues(layout, 1, QuickstartSettings(device="cuda"))
    with pytest.raises(RecipeError, match="asked for is seed 1, device cpu, world badges"):
        quickstart.check_continues(layout, 1, QuickstartSettings(world="badges"))


def test_a_file_for_a_folder_and_a_gpu_that_is_not_there_stop_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(RecipeError, match="file: is a file; give --out a folder"):
        run_quickstart(file, 0, Console())
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(EnvironmentMismatchError, match="--device cuda: torch finds no GPU here"):
        run_quickstart(tmp_path / "out", 0, Console(), QuickstartSettings(device="cuda"))
    assert not (tmp_path / "out").exists()


def test_a_long_run_is_evaluated_on_the_way(tmp_path: Path) -> None:
    def trainer(steps: int | None) -> Any:
        return stage_recipe(Layout(tmp_path), "grpo.yaml", QuickstartSettings(rl_steps=steps), 0).trainer

    assert trainer(None).steps == trainer(None).eval_every
    assert (trainer(30).steps, trainer(30).eval_every) == (30, 30)
    assert (trainer(150).steps, trainer(150).eval_every, trainer(150).save_every) == (150, 25, 25)


def test_figures_over_seeds_are_those_of_this_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []

    def run(command: list[str], **_: Any) -> None:
        seed = int(command[-1])
        ran.append(seed)
        out = Path(command[command.index("--out") + 1])
        out.mkdir(parents=True)
        (out / "summary.json").write_text(json.dumps(run_facts(seed, QuickstartSettings()) | {"jf_rl": 40.0 + seed}))

    monkeypatch.setattr(learning.subprocess, "run", run)
    assert [learning.run_seed(s, tmp_path)["jf_rl"] for s in (1, 2, 1)] == [41.0, 42.0, 41.0] and ran == [1, 2]
    old = tmp_path / "seed1" / "summary.json"
    old.write_text(old.read_text().replace('"version": "', '"version": "0.0.'))
    with pytest.raises(SystemExit, match=r"seed1/summary.json: figures of another run \(version: '0\.0\."):
        learning.run_seed(1, tmp_path)


def test_a_checkout_that_is_not_installed_has_a_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hours of work on a cluster ended without one, for want of a version."""

    def missing(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr("eval.scores.info.version", missing)
    assert run_facts(0, QuickstartSettings())["version"] == "not installed"


def test_a_step_can_be_measured_again_in_the_same_folder(tmp_path: Path) -> None:
    for n in (1, 2, 3):
        assert grpo_step.new_run_folder(tmp_path, "tiny") == tmp_path / f"run_tiny_{n}"
        (tmp_path / f"run_tiny_{n}").mkdir()


def test_a_figure_that_a_seed_lacks_is_no_number() -> None:
    assert learning.spread_of([None, 1.0, 3.0]) == {"values": [None, 1.0, 3.0], "mean": 2.0, "spread": 2**0.5}
    assert learning.spread_of([None])["mean"] is None
