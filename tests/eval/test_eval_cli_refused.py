"""``videoseg eval``: what is found out before the engines start, and what must not be mixed, lost or dropped."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import Result

from eval.results.results_file import ResultsFile, read_results
from tests.eval import eval_cli
from tests.eval.eval_cli import Started, make_root, scripted_starts
from verl_ext.cli.evaluate import EXIT_INCOMPLETE
from verl_ext.evaluation.run_file import weights_mark

Evaluate = Callable[..., Result]
META = "meta_expressions_valid_.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_root(tmp_path_factory.mktemp("made"))


@pytest.fixture
def made(whole: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt; pictures are links."""
    root = tmp_path / "made"
    shutil.copytree(whole, root, ignore=shutil.ignore_patterns("JPEGImages"))
    os.symlink(whole / "ReVOS" / "JPEGImages", root / "ReVOS" / "JPEGImages")
    return root


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[Started]:
    yield from scripted_starts(monkeypatch)


@pytest.fixture
def evaluate(made: Path, tmp_path: Path) -> Evaluate:
    return partial(eval_cli.evaluate, made / "policy", tmp_path / "out", "--root", made)


def said(done: Result) -> str:
    return " ".join(done.stderr.split())


def spoil(made: Path, name: str, change: Callable[[Any], Any]) -> None:
    path = made / "ReVOS" / name
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def first_expressions(meta: Any) -> dict[str, Any]:
    return next(iter(meta["videos"].values()))["expressions"]  # type: ignore[no-any-return]


# ---- results of other weights ------------------------------------------------------------------------------------


def test_results_of_other_weights_are_not_mixed_in(
    evaluate: Evaluate, started: Started, made: Path, tmp_path: Path
) -> None:
    weights, out = made / "policy" / "model.safetensors", tmp_path / "out" / "mine"
    weights.write_bytes(b"\x02" + bytes(7) + b"{}")
    args = ["--benchmark", made / "mine.yaml", "--max-samples", "2"]
    assert evaluate(*args).exit_code == 0
    before = weights_mark(made / "policy")
    run, scores = (json.loads((out / name).read_text()) for name in ("run.json", "scores.json"))
    assert run["protocol"]["weights"] == scores["info"]["protocol"]["weights"] == before
    assert {"torch", "vllm", "transformers", "ray", "sam2"} <= set(run["versions"])
    assert scores["info"]["inference_versions"] == run["versions"]

    os.utime(weights, ns=(1, 1))  # as long as before, but written at another time
    kept = (out / "run.json").read_bytes()
    other = evaluate(*args, "--max-samples", "3")
    assert other.exit_code == 2 and len(started) == 1
    assert f"weights = {before!r}, this command has {weights_mark(made / 'policy')!r}" in said(other)
    assert "give another --out" in said(other) and (out / "run.json").read_bytes() == kept


@pytest.mark.parametrize("setting", ["policy.prompt_set=full", "pool.checkpoint=sam2.pt"])
def test_what_changes_the_answers_is_compared(evaluate: Evaluate, started: Started, made: Path, setting: str) -> None:
    args = ["--benchmark", made / "mine.yaml", "--max-samples", "1"]
    assert evaluate(*args).exit_code == 0
    other = evaluate(*args, "--set", setting)
    assert other.exit_code == 2 and f"this command has '{setting.partition('=')[2]}'" in said(other)


def test_the_versions_of_an_update_in_between_are_both_there(
    evaluate: Evaluate, started: Started, made: Path, tmp_path: Path
) -> None:
    args = ["--benchmark", made / "mine.yaml", "--max-samples"]
    assert evaluate(*args, 1).exit_code == 0
    run = tmp_path / "out" / "mine" / "run.json"
    run.write_text(run.read_text().replace('"ray": "', '"ray": "0.1, '))
    assert evaluate(*args, 2).exit_code == 0
    assert json.loads(run.read_text())["versions"]["ray"].startswith("0.1, ")


def test_a_folder_that_another_job_fills_is_left_alone(
    evaluate: Evaluate, started: Started, made: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out" / "mine"
    with ResultsFile(out / "results.jsonl"):
        (out / "run.json").write_text('{"protocol": {"policy": "another"}}')
        done = evaluate("--benchmark", made / "mine.yaml")
        assert done.exit_code == 2 and "another job writes these results" in said(done)
        assert json.loads((out / "run.json").read_text()) == {"protocol": {"policy": "another"}}


# ---- ground truth ------------------------------------------------------------------------------------------------


def test_missing_foreground_is_said_before_anything_starts(evaluate: Evaluate, started: Started, made: Path) -> None:
    (made / "ReVOS" / "mask_dict_foreground.json").unlink()
    done = evaluate("--benchmark", f"{made / 'mine.yaml'},revos")
    assert done.exit_code == 2 and "foreground" in said(done) and not started


def test_malformed_entries_of_what_is_to_be_scored_are_said_before_anything_starts(
    evaluate: Evaluate, started: Started, made: Path
) -> None:
    spoil(made, META, lambda meta: first_expressions(meta)["1"].pop("exp"))
    done = evaluate("--benchmark", "revos", "--strict")
    assert done.exit_code == 2 and not started
    assert "revos could not be scored, so nothing was started" in said(done) and "expression 1" in said(done)
    done = evaluate("--benchmark", "revos")
    assert done.exit_code == 3 and started and "1 with annotations that cannot be used" in " ".join(done.output.split())


def test_masks_of_which_none_can_be_used_are_said_before_anything_starts(
    evaluate: Evaluate, started: Started, made: Path
) -> None:
    spoil(made, "mask_dict.json", lambda masks: [track.pop() for track in masks.values()])
    spoil(made, META, lambda meta: [v["expressions"].pop(k) for v in meta["videos"].values() for k in absent(v)])
    done = evaluate("--benchmark", "revos")
    assert done.exit_code == 2 and not started
    assert "no annotation of it can be used, the first because: " in said(done) and "11 entries" in said(done)


def absent(video: Any) -> list[str]:
    """Expressions without a target, which need no masks."""
    return [eid for eid, body in video["expressions"].items() if not body["anno_id"]]


def test_a_target_that_cannot_be_scored_does_not_stop_the_others(
    evaluate: Evaluate, started: Started, made: Path, tmp_path: Path
) -> None:
    """The first clip's masks are sound, so it shows only in the end; the results stay, and the rest is scored."""
    meta = json.loads((made / "ReVOS" / META).read_text())
    last = next(e for e in list(meta["videos"].values())[-1]["expressions"].values() if e["anno_id"])
    spoil(made, "mask_dict.json", lambda masks: masks[str(last["anno_id"][0])].pop())
    done = evaluate("--benchmark", f"revos,{made / 'mine.yaml'}", "--strict")
    assert done.exit_code == 2
    assert "revos could not be scored: " in said(done) and "11 entries for 12 frames" in said(done)
    assert "the results are kept" in said(done)
    assert (tmp_path / "out" / "mine" / "scores.json").is_file() and "overall" in done.stdout
    assert not (tmp_path / "out" / "revos" / "scores.json").exists()
    assert read_results(tmp_path / "out" / "revos" / "results.jsonl")


def test_what_the_annotations_are_wrong_about_fails_by_name(
    evaluate: Evaluate, started: Started, made: Path, tmp_path: Path
) -> None:
    """Nothing is to be scored here, so the rest goes on."""

    def change(meta: Any) -> None:
        first_expressions(meta)["1"].pop("exp")
        meta["videos"]["broken"] = {"frames": "none", "expressions": {}}

    spoil(made, META, change)
    for again in range(2):
        done = evaluate("--benchmark", made / "hidden.yaml")
        assert done.exit_code == EXIT_INCOMPLETE, done.output + str(done.exception)
        failed = [json.loads(x) for x in (tmp_path / "out/hidden/failed.jsonl").read_text().splitlines()]
        assert [f["expression_id"] for f in failed] == ["expression 1", "(all of the clip)"], again
        assert failed[1]["clip"] == "broken" and {f["stage"] for f in failed} == {"data"}
    assert len(started) == 1 and "2 expressions of hidden failed" in said(done)


def test_a_draw_is_scored_as_its_benchmark_is(evaluate: Evaluate, started: Started, made: Path, tmp_path: Path) -> None:
    done = evaluate("--benchmark", "revos", "--max-samples", "3")
    assert done.exit_code == 0, done.output + str(done.exception)
    scores = json.loads((tmp_path / "out" / "revos" / "scores.json").read_text())
    assert (scores["info"]["scorer"], len(scores["expressions"])) == ("revos", 3)
    assert scores["overall"]["metrics"]["robustness"]["mean"] is not None and "a draw of 3" in done.stdout


# ---- settings ----------------------------------------------------------------------------------------------------


def test_engine_settings_reach_the_engine(evaluate: Evaluate, started: Started, made: Path) -> None:
    engine = ["kv_cache_gib=2", "max_num_batched_tokens=20000", "max_num_seqs=3", "vision_attention=sdpa"]
    sets = [word for e in engine for word in ("--set", f"rollout.engine.{e}")]
    done = evaluate("--benchmark", made / "mine.yaml", "--max-samples", "1", *sets, "--set", "pool.cpus_per_worker=2.0")
    assert done.exit_code == 0, done.output
    settings = started[0][0]
    assert (settings.kv_cache_gib, settings.max_num_batched_tokens, settings.concurrency) == (2, 20000, 3)
    assert settings.vision_attention == "sdpa"
    assert settings.pool_cpus == 2.0 and settings.turn_length == 1024, "a box policy's one reply may be long"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--set", "pool.workers=3"], "--set pool.workers=3: evaluation lays its pool out itself"),
        (["--set", "pool.share_gpu=true"], "pool.share_gpu"),
        (["--gpus", "8"], "--gpus 8, but device is cpu"),
        (["--base", "b"], "--base b: .* is no released checkpoint"),
    ],
)
def test_what_would_not_happen_is_refused(
    evaluate: Evaluate, started: Started, made: Path, args: list[str], message: str
) -> None:
    done = evaluate("--benchmark", made / "mine.yaml", *args)
    assert done.exit_code == 2 and re.search(message, said(done)) and not started


def test_what_would_happen_anyway_may_be_said(evaluate: Evaluate, started: Started, made: Path) -> None:
    same = ["--set", "pool.workers=1", "--set", "pool.gpus_per_worker=0"]
    assert evaluate("--benchmark", made / "mine.yaml", "--max-samples", "1", *same).exit_code == 0


def test_benchmarks_that_want_other_engines_are_refused(evaluate: Evaluate, started: Started, made: Path) -> None:
    stanza = (made / "mine.yaml").read_text()
    (made / "long.yaml").write_text(f"{stanza}protocol: {{rollout.turn_length: 300}}\n")
    done = evaluate("--benchmark", f"{made / 'mine.yaml'},{made / 'long.yaml'}")
    assert done.exit_code == 2 and not started
    assert "benchmark long: its protocol comes to turn_length = 300, that of mine to 1024" in said(done)


def test_benchmarks_may_show_frames_of_their_own_size(started: Started, made: Path, tmp_path: Path) -> None:
    """Boxes are in the pixels of the frames that were shown: with half the side, the same box is twice as large."""
    stanza = (made / "mine.yaml").read_text()
    for name, side in (("large", 112), ("small", 56)):
        (made / f"{name}.yaml").write_text(f"{stanza}protocol: {{rollout.box_side: {side}}}\n")
    both, brief = f"{made / 'large.yaml'},{made / 'small.yaml'}", ["--set", "policy.prompt_set=brief"]
    args = ["--benchmark", both, "--root", made, "--max-samples", "1", "--device", "cpu", *brief]
    done = eval_cli.evaluate(made / "policy", tmp_path / "out", *args, settings=())
    assert done.exit_code == 0, done.output + str(done.exception)
    large, small = (call[0].boxes for call in started[0][1].pool.calls)
    assert np.allclose(2 * np.array(large)[0, :2], np.array(small)[0, :2]), "the other corner is cut off at the frame"
