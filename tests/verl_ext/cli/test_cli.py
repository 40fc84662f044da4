"""The command line: instant help, one clear message an error, dispatch to the right code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from rollout.errors import DataError, RecipeError
from verl_ext.cli.main import app
from verl_ext.quickstart import QuickstartSettings
from verl_ext.recipe import load_resolved

ROOT = Path(__file__).parents[3]
O3 = str(ROOT / "recipes/videoseg_o3/grpo_2b.yaml")
SFT = str(ROOT / "recipes/videoseg_o3/sft_2b.yaml")
HEAVY = ("torch", "ray", "vllm", "verl", "transformers", "numba", "scipy", "cv2", "pandas")


@pytest.fixture
def run() -> Any:
    runner = CliRunner()
    return lambda *args, **kwargs: runner.invoke(app, [str(a) for a in args], **kwargs)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Overrides for a recipe whose folders all exist, and whose policy has a head."""
    policy = tmp_path / "policy"
    (policy / "segmentation_head").mkdir(parents=True)
    (policy / "segmentation_head" / "config.json").write_text("{}")
    (policy / "tokenizer.json").write_text('{"added_tokens": [{"content": "[SEG]"}]}')
    for name in ("meta_expressions_train_.json", "meta_expressions_valid_.json", "mask_dict.json"):
        (tmp_path / name).touch()
    source = f"{{dataset: revos, root: {tmp_path}}}"
    return [f"policy.path={policy}", f"data=[{source}]", f"output_dir={tmp_path}"]


def install(monkeypatch: pytest.MonkeyPatch, module: str, **attributes: Any) -> None:
    """Put a stand-in where a command imports from."""
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(**attributes))


def test_help_needs_nothing_heavy() -> None:
    code = f"""
import sys
from typer.testing import CliRunner
from verl_ext.cli.main import app
assert CliRunner().invoke(app, ["--help"]).exit_code == 0
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert out.stdout.strip() == "[]"


COMMANDS = (
    "",
    "train",
    "launch",
    "launch status",
    "launch logs",
    "launch stop",
    "stop",
    "eval",
    "convert",
    "policy new",
    "score",
    "report",
    "quickstart",
    "doctor",
)


@pytest.mark.parametrize("command", [*COMMANDS, "data synthetic", "data check", "data segmentation"])
def test_every_help_teaches_with_an_example(command: str, run: Any) -> None:
    result = run(*command.split(), "--help", env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert result.output.count(f"videoseg {command}".strip()) >= 2  # the usage line and an example


def test_launch_takes_a_recipe_for_its_first_word(
    run: Any, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (("launch", "--dry-run", O3), ("launch", "submit", O3, "--dry-run")):
        result = run(*words, *files, "cluster.kind=slurm", "name=one")
        assert result.exit_code == 0, result.output
        assert "#SBATCH --nodes=1" in result.output and "GPU 0-3" in result.output
    assert (tmp_path / "runs/launches/one/job.sbatch").is_file()
    refused = run("launch", O3, "cluster.kind=slurm", "cluster.nodes=3")
    assert refused.exit_code == 2 and "cluster.nodes: 3" in refused.stderr
    assert run("launch", "status", "one").exit_code == 2  # it was a dry run
    gone = run("launch", O3, "cluster.kind=slurm")
    assert gone.exit_code == 2 and "policy.path" in gone.stderr
    slip = run("launch", "statu", "one")
    assert slip.exit_code == 2 and "did you mean status?" in slip.output + slip.stderr


def test_help_shows_brackets_as_they_are_typed(run: Any) -> None:
    assert "trainer.loggers=[console,wandb]" in run("train", "--help", env={"COLUMNS": "200"}).output


def test_a_wrong_key_is_one_message_and_exit_code_2(run: Any) -> None:
    result = run("train", O3, "rollout.gruop_size=2")
    assert result.exit_code == 2
    assert "rollout.gruop_size: unknown key; did you mean 'group_size'?" in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("position", ["first", "last"])
def test_debug_shows_the_traceback_wherever_it_stands(position: str, run: Any) -> None:
    line = ["train", O3, "rollout.gruop_size=2"]
    result = run(*(["--debug", *line] if position == "first" else [*line, "--debug"]))
    assert isinstance(result.exception, RecipeError)


def test_missing_files_stop_before_anything_starts(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "verl_ext.reinforce.run", train_grpo=lambda *a, **k: pytest.fail("started"))
    result = run("train", O3, "data.0.root=/nowhere/ReVOS")
    assert result.exit_code == 2
    assert "data[0].root: /nowhere/ReVOS does not exist" in result.stderr and "VIDEOSEG_DATA" in result.stderr


def test_a_policy_that_cannot_be_trained_stops_before_anything_starts(
    run: Any, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, "verl_ext.supervised.run", train_sft=lambda *a, **k: pytest.fail("started"))
    (tmp_path / "policy" / "segmentation_head" / "config.json").unlink()
    result = run("train", SFT, *files)
    assert result.exit_code == 2
    assert "has no segmentation_head/config.json" in result.stderr and "videoseg policy new" in result.stderr
    assert "data[0].annotations: null with stage: sft" in result.stderr
    assert "VIDEOSEG_DATA" not in result.stderr  # no file is missing


def test_dry_run_writes_the_resolved_recipe_and_the_plan_and_starts_nothing(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, "verl_ext.reinforce.run", train_grpo=lambda *a, **k: pytest.fail("started"))
    result = run("train", O3, f"output_dir={tmp_path}/out", "trainer.steps=7", "--dry-run", env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert load_resolved(tmp_path / "out/resolved.yaml").trainer.steps == 7
    planned = json.loads((tmp_path / "out/plan.json").read_text())
    assert [p["count"] for p in planned["processes"] if "FSDP" in p["role"]] == [4]
    assert "GPU 0-3" in result.output and "data[0].root" in result.output


@pytest.mark.parametrize(("recipe", "stage", "name"), [(O3, "grpo", "train_grpo"), (SFT, "sft", "train_sft")])
@pytest.mark.parametrize("resume", [False, True])
def test_train_dispatches_by_stage(
    recipe: str,
    stage: str,
    name: str,
    resume: bool,
    run: Any,
    files: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []

    def train(recipe: Any, resume: bool, progress: Any) -> Path:
        progress(1, 2, "a step")
        seen.append((recipe.stage, resume))
        return Path("there/policy")

    install(monkeypatch, {"grpo": "verl_ext.reinforce.run", "sft": "verl_ext.supervised.run"}[stage], **{name: train})
    more = [f"val.0.root={tmp_path}"] if stage == "grpo" else ["data.0.annotations=/tmp"]
    result = run("train", recipe, *files, *more, *(["--resume"] if resume else []))
    assert result.exit_code == 0, result.output + str(result.exception)
    assert seen == [(stage, resume)]
    assert "there/policy" in result.output


@pytest.mark.parametrize("how", ["returns None", "raises"])
def test_an_interrupted_run_says_how_to_go_on(
    how: str, run: Any, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: Any, **__: Any) -> None:
        if how == "raises":
            raise KeyboardInterrupt

    install(monkeypatch, "verl_ext.reinforce.run", train_grpo=train)
    result = run("train", O3, *files, f"val.0.root={tmp_path}")
    assert result.exit_code == 130
    assert "--resume" in result.output


@pytest.mark.parametrize(
    ("line", "module", "name", "said"),
    [
        (["quickstart"], "verl_ext.quickstart", "run_quickstart", "goes on where it stopped"),
        (["--debug", "doctor"], "verl_ext.doctor.diagnosis", "diagnose", None),
        (["doctor"], "verl_ext.doctor.diagnosis", "diagnose", "Interrupted.\n"),
        (["data", "synthetic", "x"], "data_construction.synthetic", "make_synthetic", "Interrupted.\n"),
    ],
)
def test_ctrl_c_says_what_the_command_can_do_then(
    line: list[str], module: str, name: str, said: str | None, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    install(monkeypatch, module, **{name: stop}, to_report=None, QuickstartSettings=QuickstartSettings)
    result = run(*line)
    if said is None:  # --debug shows where it was; the runner turns that into an exit code of its own
        assert "Interrupted." not in result.stderr
        return
    assert result.exit_code == 130 and result.stderr.endswith(said if said.endswith("\n") else f"{said}.\n")
    assert "--resume" not in result.output


def test_a_stopped_quickstart_ends_like_an_interrupted_one(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from verl_ext.quickstart.stages import StoppedError

    def stop(*_: Any) -> None:
        raise StoppedError("what is done lies in x; the same command goes on from there")

    install(monkeypatch, "verl_ext.quickstart", run_quickstart=stop, QuickstartSettings=QuickstartSettings)
    result = run("quickstart")
    assert result.exit_code == 130 and result.stderr.startswith("Stopped: what is done")


def test_an_error_out_of_a_ray_worker_shows_its_own_sentence(
    run: Any, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class RayTaskErrorOfDataError(DataError):
        cause = DataError("clip a, frame 3, file x.jpg: the file does not exist")

    def train(*_: Any, **__: Any) -> None:
        raise RayTaskErrorOfDataError("ray::Worker()\n  Traceback ... fifty lines")

    install(monkeypatch, "verl_ext.reinforce.run", train_grpo=train)
    result = run("train", O3, *files, f"val.0.root={tmp_path}")
    assert result.exit_code == 2
    assert result.stderr.strip() == "Data: clip a, frame 3, file x.jpg: the file does not exist"


def test_quickstart_is_called_with_its_folder_and_seed(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def take(out: Path, seed: int, _: Any, settings: QuickstartSettings) -> None:
        seen.append((out, seed, settings.world, settings.device, settings.rl_steps))

    install(monkeypatch, "verl_ext.quickstart", run_quickstart=take, QuickstartSettings=QuickstartSettings)
    assert run("quickstart", "--seed", "3").exit_code == 0
    assert run("quickstart", "--out", "runs/b", "--device", "cuda", "--rl-steps", "150").exit_code == 0
    assert run("quickstart", "--world", "shapes").exit_code == 0
    assert seen == [
        (Path("runs/quickstart"), 3, "badges", "cpu", None),
        (Path("runs/b"), 0, "shapes", "cuda", 150),
        (Path("runs/quickstart"), 0, "shapes", "cpu", None),
    ]


def test_report_writes_beside_the_run_unless_told(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "verl_ext.quickstart.report", write_report=lambda run_dir, out: out)
    assert run("report", "runs/x").output.strip() == "report: runs/x/report.html"
    assert run("report", "runs/x", "--out", "y.html").output.strip() == "report: y.html"
