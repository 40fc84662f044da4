"""``videoseg eval``: several benchmarks on one start of the engines, going on, failures, hints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner, Result

from data_construction.layouts import write_layout
from eval.benchmarks import benchmark_names, load_benchmark
from eval.results.results_file import read_results
from tests.eval import eval_cli
from tests.eval.eval_cli import SMALL, Started, make_root, scripted_starts
from verl_ext.cli.evaluate import EXIT_INCOMPLETE
from verl_ext.cli.main import app


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only."""
    return make_root(tmp_path_factory.mktemp("made"))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[Started]:
    yield from scripted_starts(monkeypatch)


@pytest.fixture
def evaluate(made: Path, tmp_path: Path) -> Callable[..., Result]:
    return partial(eval_cli.evaluate, made / "policy", tmp_path / "out")


def test_two_benchmarks_are_run_and_scored_on_one_start(
    evaluate: Callable[..., Result], started: Started, made: Path, tmp_path: Path
) -> None:
    done = evaluate("--benchmark", f"revos,{made / 'mine.yaml'}", "--root", made)
    assert done.exit_code == 0, done.output + str(done.exception)
    assert len(started) == 1
    settings, worker = started[0]
    assert settings.environment == "single_turn_boxes", "a Qwen2.5-VL folder is a box policy"
    for name in ("revos", "mine"):
        folder = tmp_path / "out" / name
        scores = json.loads((folder / "scores.json").read_text())
        assert scores["missing"] == [] and scores["info"]["protocol"]["method"] == "veason_r1"
        assert (folder / "scores.csv").is_file() and f"\n{name}\n" in done.output
    assert "reasoning" in done.output and "overall" in done.output
    assert len(worker.asked) == sum(len(read_results(p)) for p in tmp_path.glob("out/*/results.jsonl"))

    with (tmp_path / "out" / "mine" / "results.jsonl").open("ab") as file:
        file.write(b'{"clip')
    again = evaluate("--benchmark", f"revos,{made / 'mine.yaml'}", "--root", made)
    assert "a torn last line of 6 bytes was cut off" in " ".join(again.stderr.split())
    assert again.exit_code == 0 and len(started) == 1, "nothing is left to do, so no engine starts"
    assert "overall" in again.output


def test_every_benchmark_runs_in_its_published_layout(
    evaluate: Callable[..., Result], started: Started, tmp_path: Path
) -> None:
    names = benchmark_names()
    for dataset in {load_benchmark(n).dataset for n in names}:
        write_layout(dataset, tmp_path / "sets" / dataset, clips=1)
    done = evaluate("--benchmark", ",".join(names), "--root", tmp_path / "sets")
    assert done.exit_code == 0, done.output + str(done.exception)
    assert len(started) == 1
    for name in names:
        benchmark, folder = load_benchmark(name), tmp_path / "out" / name
        records = read_results(folder / "results.jsonl")
        assert records and all(len(r.turns) == 1 for r in records), name
        assert (folder / "scores.json").is_file() == (benchmark.scorer is not None), name
        if benchmark.frames is not None:
            assert all(r.num_frames <= benchmark.frames for r in records), name


def test_the_former_form_still_works_and_a_draw_grows(
    evaluate: Callable[..., Result], started: Started, made: Path, tmp_path: Path
) -> None:
    args = ["--dataset", "revos", "--root", made / "ReVOS", "--split", "valid"]
    assert evaluate(*args, "--max-samples", "3").exit_code == 0
    first = {r.key for r in read_results(tmp_path / "out" / "results.jsonl")}
    assert len(first) == 3 and json.loads((tmp_path / "out" / "scores.json").read_text())["info"]["expressions"] == 3
    assert evaluate(*args, "--max-samples", "5").exit_code == 0
    assert first < {r.key for r in read_results(tmp_path / "out" / "results.jsonl")}
    assert len(started[1][1].asked) == 2


def test_without_public_ground_truth_it_ends_with_how_to_pack(
    evaluate: Callable[..., Result], started: Started, made: Path, tmp_path: Path
) -> None:
    done = evaluate("--benchmark", made / "hidden.yaml", "--root", made / "ReVOS", "--max-samples", "2")
    assert done.exit_code == 0, done.output
    assert "videoseg submit" in done.output and "the server" in done.output
    assert not (tmp_path / "out" / "hidden" / "scores.json").exists()


def test_clips_of_your_own_need_no_masks(evaluate: Callable[..., Result], started: Started, tmp_path: Path) -> None:
    write_layout("generic", tmp_path / "mine", clips=1)
    shutil.rmtree(tmp_path / "mine" / "Annotations")
    done = evaluate("--benchmark", "generic", "--root", tmp_path / "mine")
    assert done.exit_code == 0, done.output + str(done.exception)
    assert "there are no masks to score them against" in done.output.replace("\n", " ")
    assert read_results(tmp_path / "out" / "generic" / "results.jsonl")


def test_failures_are_counted_and_the_exit_code_tells(
    evaluate: Callable[..., Result], started: Started, made: Path, tmp_path: Path
) -> None:
    frame = next(iter(sorted((made / "ReVOS" / "JPEGImages").glob("test_*/*.jpg"))))
    whole = frame.read_bytes()
    frame.write_bytes(b"no image")
    args = ["--benchmark", made / "mine.yaml", "--root", made]
    try:
        done = evaluate(*args)
    finally:
        frame.write_bytes(whole)
    assert done.exit_code == EXIT_INCOMPLETE
    failed = [json.loads(x) for x in (tmp_path / "out" / "mine" / "failed.jsonl").read_text().splitlines()]
    assert failed and all(str(frame) in f["reason"] for f in failed)
    assert f"{len(failed)} expressions of mine failed" in done.stderr
    scores = json.loads((tmp_path / "out" / "mine" / "scores.json").read_text())
    assert len(scores["missing"]) == len(failed)
    assert evaluate(*args).exit_code == 0


def test_results_of_other_settings_are_not_mixed_in(
    evaluate: Callable[..., Result], started: Started, made: Path
) -> None:
    args = ["--benchmark", made / "mine.yaml", "--root", made, "--max-samples", "1"]
    assert evaluate(*args).exit_code == 0
    other = evaluate(*args, "--set", "rollout.box_frames=4")
    assert other.exit_code == 2 and "another --out" in other.stderr
    assert "were made with rollout.box_frames = 8, this command has 4" in " ".join(other.stderr.split())
    assert evaluate(*args, "--set", "rollout.engine.gpu_memory_utilization=0.3").exit_code == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--benchmark", "revos"], "0 folders"),
        (["--root", "x"], "give --benchmark NAMES or --dataset NAME"),
        (["--benchmark", "revos", "--dataset", "revos"], "and not both"),
        (["a/policy", "--benchmark", "revos"], "give the policy's folder once"),
        (["--benchmark", "revos", "--root", "PARENT", "--set", "rollout.box_sied=3"], "did you mean 'box_side'"),
    ],
)
def test_wrong_options_are_one_message_and_start_nothing(
    evaluate: Callable[..., Result], started: Started, made: Path, args: list[str], message: str
) -> None:
    done = evaluate(*[a.replace("PARENT", str(made)) for a in args])
    assert done.exit_code == 2 and message in done.stderr and not started


def test_a_released_checkpoint_is_converted_beside_the_results(
    started: Started, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = tmp_path / "VideoSEG"
    released.mkdir()
    save_file({"text_hidden_fcs.0.weight": np.zeros((2, 2), np.float32)}, released / "model.safetensors")
    given: list[Any] = []

    def convert(source: Path, out: Path, base: Path | None) -> Path:
        given.append((source, base))
        out.mkdir(parents=True)
        (out / "config.json").write_text("{}")
        return out

    monkeypatch.setattr("verl_ext.policy.convert.convert_released", convert)
    args = ["eval", released, "--benchmark", made / "mine.yaml", "--root", made, "--max-samples", "1", *SMALL]
    for said in ("converting it, once, into", "using its conversion in"):
        done = CliRunner().invoke(app, [str(a) for a in [*args, "--out", tmp_path / "runs" / "e", "--base", "b"]])
        assert done.exit_code == 0, done.output + str(done.exception)
        assert said in done.stderr and str(tmp_path / "runs" / "converted") in done.stderr
    assert given == [(released, Path("b"))]
