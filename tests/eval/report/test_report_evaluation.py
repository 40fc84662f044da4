"""The page of one evaluation: its tables, what is missing, the clips and turns it shows, and that it stands alone."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data_construction.layouts import write_layout
from eval.benchmarks import load_benchmark
from eval.report.charts.histogram import histogram
from eval.report.charts.timeline import timeline
from eval.report.choice import choose
from eval.report.evaluation import Dialogues, EvaluationPage, build_evaluation_report
from eval.report.folder import report_folder
from eval.report.inputs import ReportStage
from eval.report.page import facts, signed
from eval.results.results_file import read_results
from eval.scores.benchmark import score_benchmark
from eval.scores.files import write_scores
from eval.scores.in_memory import score_results
from rollout.errors import DataError
from rollout.types import Grounding, StopReason
from tests.eval.answers import disturbed, write_results
from tests.eval.clips import BAIT, record, samples, shifted
from tests.eval.report.test_report import Tags
from verl_ext.cli.main import app


def words(page: Path) -> str:
    """The text of a page."""
    body = page.read_text().partition("</style>")[2]
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def evaluation_input(frames: Path) -> EvaluationPage:
    """Twelve expressions, two of them without an answer; thinking and titles try to break out."""
    truth = samples(frames)
    records = [record(s, shifted(s, 3 * i), thinking=BAIT) for i, s in enumerate(truth)][:-1]
    records[4] = replace(records[4], stop=StopReason.REFUSED_CLIP)
    scores = score_results(records, truth, protocol={"policy": "a/b", "rollout": {"max_turns": 3}}, seed=5)
    scores.info["failures"] = {truth[-1].id: f"the GPU died {BAIT}"}
    scores.info["published"] = {"A method": {"jf": 61.5}}
    stage = ReportStage("evaluation", "prediction", scores, records, truth)
    dialogues = Dialogues({"answered": [r.name for r in records[:8]], "turn_limit": [r.name for r in records[8:]]})
    return EvaluationPage(f"Evaluation {BAIT}", stage, choose(scores.expressions, ends=2), dialogues, ["a note"])


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> EvaluationPage:
    return evaluation_input(tmp_path_factory.mktemp("frames"))


@pytest.fixture(scope="module")
def page(evaluation: EvaluationPage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_evaluation_report(evaluation, tmp_path_factory.mktemp("page") / "deep" / "report.html")


def test_stands_alone_and_escapes(page: Path) -> None:
    tags = Tags(page.read_text())
    assert tags.open == [] and "default-src 'none'" in page.read_text()
    for name, attributes in tags.found:
        assert name not in ("script", "iframe", "object", "link", "base", "form"), name
        assert not [key for key in attributes if key.startswith("on")], (name, attributes)
        assert (attributes.get("src") or attributes.get("href") or "#").startswith(("#", "data:image/jpeg;base64,"))
    assert page.read_text().count("&lt;script&gt;") >= 4 and len(page.read_bytes()) < 2_000_000
    assert [p.name for p in page.parent.iterdir()] == ["report.html"]


def test_tables_and_missing(page: Path, evaluation: EvaluationPage) -> None:
    text, scores = words(page), evaluation.stage.scores
    overall = scores.overall.metrics["jf"]
    assert f"J&amp;F {overall.mean:.1f} ± {overall.se:.1f}" in text and "A method 61.5" in text
    for label, group in {**scores.by_type, **scores.by_kind}.items():
        assert f"{label} {group.count} {group.metrics['jf'].mean:.1f} ±" in text
    assert "2 expressions have no prediction and count 0" in text
    missing, failed = scores.missing[0], scores.failed[0]
    assert f"{missing} the GPU died &lt;script" in text and f"{failed} the dialogue could not begin" in text
    assert re.search(r"answered 8 73 % \d", text) and "turn limit 3 27 %" in text
    assert "rollout.max turns 3" in text and "seed 5" in text


def test_best_and_worst_are_drawn_with_every_turn(page: Path, evaluation: EvaluationPage) -> None:
    text, html = words(page), page.read_text()
    chosen = {label: row for row, labels in evaluation.chosen for label in labels}
    ranked = sorted(r.jf for r in evaluation.stage.scores.expressions if r.visible_frames and not r.missing)
    assert [chosen[f"best {i}"].jf for i in (1, 2)] == ranked[:-3:-1]
    assert [chosen[f"worst {i}"].jf for i in (1, 2)] == ranked[:2]
    drawn = html.count('<article class="clip">')
    assert drawn == len(evaluation.chosen) == html.count('class="strip gt"') == html.count('class="strip pred"')
    assert html.count('class="turn"') == 2 * drawn and text.count("Was shown 5 images") == drawn
    assert "frames 3 to 7, keyframe 5" in text and html.count("data:image/jpeg") > 20 * drawn


def test_choice_with_few_rows(evaluation: EvaluationPage) -> None:
    rows = [r for r in evaluation.stage.scores.expressions if r.visible_frames and not r.missing]
    for some in (rows[:1], rows[:2], rows[:5]):
        chosen = choose(some, ends=4)
        assert {row.name for row, _ in chosen} <= {row.name for row in some}
        assert len(chosen) == len({row.name for row, _ in chosen})
    assert [labels[:1] for _, labels in choose(rows[:1], ends=4)] == [["best"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(evaluation, data set) of ReVOS in its own layout, one expression not answered, scored."""
    base = tmp_path_factory.mktemp("eval")
    write_layout("revos", base / "ReVOS", clips=3)
    benchmark = load_benchmark("revos")
    every = list(benchmark.samples(base / "ReVOS"))
    results = write_results(base / "runs/revos", every[1:], disturbed)
    write_scores(score_benchmark(results, benchmark, base / "ReVOS", workers=1), results.parent)
    return results.parent, base / "ReVOS"


def test_command_on_a_folder(folder: tuple[Path, Path]) -> None:
    evaluation, root = folder
    done = CliRunner().invoke(app, ["report", str(evaluation), "--root", str(root), "--shown", "2"])
    assert done.exit_code == 0, done.output
    text = words(evaluation / "report.html")
    assert "Evaluation: revos" in text and "1 expressions have no prediction" in text and "VideoSEG-O3 4B" in text
    assert "by objects" in text and (evaluation / "report.html").read_text().count('class="strip gt"') >= 4
    (evaluation / "report.html").unlink()
    done = CliRunner().invoke(app, ["report", str(evaluation.parent)])  # the folder of several benchmarks
    assert done.exit_code == 0 and "No frames are drawn" in words(evaluation / "report.html")
    assert "Turn 1: answer" in words(evaluation / "report.html")
    assert "data:image" not in (evaluation / "report.html").read_text().partition("</style>")[2]


def test_clips_that_lie_in_videos(tmp_path: Path) -> None:
    write_layout("vicas", tmp_path / "ViCaS", clips=2)
    benchmark = load_benchmark("vicas_val")
    every = [s for s in benchmark.samples(tmp_path / "ViCaS") if "#" in s.clip.frames[0]]
    assert every and ".mp4#" in every[0].clip.frames[0]
    results = write_results(tmp_path / "run", every, disturbed)
    write_scores(score_benchmark(results, benchmark, tmp_path / "ViCaS", workers=1), tmp_path / "run")
    report_folder(tmp_path / "run", tmp_path / "run" / "report.html", tmp_path / "ViCaS")
    assert (tmp_path / "run" / "report.html").read_text().count("data:image/jpeg") > 12 * len(every)


def test_what_does_not_fit_is_refused(folder: tuple[Path, Path], tmp_path: Path) -> None:
    evaluation, _ = folder
    lines = (evaluation / "results.jsonl").read_text().splitlines(True)
    (tmp_path / "results.jsonl").write_text("".join(lines))
    with pytest.raises(DataError, match=r"scores\.json: missing; score the results first"):
        report_folder(tmp_path, tmp_path / "r.html")
    (tmp_path / "scores.json").write_text((evaluation / "scores.json").read_text())
    (tmp_path / "results.jsonl").write_text("".join(lines[1:]))
    with pytest.raises(DataError, match=r"lacks .*, which scores\.json has scored"):
        report_folder(tmp_path, tmp_path / "r.html")
    other = json.loads(lines[0]) | {"clip": "elsewhere"}
    (tmp_path / "results.jsonl").write_text("".join([*lines, json.dumps(other) + "\n"]))
    with pytest.raises(DataError, match=r"does not know elsewhere/"):
        report_folder(tmp_path, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()
    bare = CliRunner().invoke(app, ["report", str(tmp_path / "nothing")])
    assert bare.exit_code == 2 and "not the folder of a finished" in bare.output


def test_a_split_without_a_benchmark_is_drawn(tmp_path: Path) -> None:
    """Scores of ``--dataset``, or of a draw by a YAML file that is gone: the protocol says which split it was."""
    write_layout("mevis", tmp_path / "MeViS", clips=2)
    every = list(load_benchmark("mevis_u").samples(tmp_path / "MeViS"))
    results = write_results(tmp_path / "run", every, disturbed)
    protocol = {"benchmark": "cut", "dataset": "mevis", "split": "valid_u", "scored_frames": 5}
    scores = score_results(read_results(results), every, protocol=protocol)
    assert "benchmark" not in scores.info
    write_scores(scores, results.parent)
    page = report_folder(results.parent, tmp_path / "r.html", tmp_path / "MeViS")
    assert 'class="strip gt"' in page.read_text()


def test_predictions_on_other_frames_are_not_drawn(tmp_path: Path) -> None:
    write_layout("mevis", tmp_path / "MeViS", clips=1)
    every = list(load_benchmark("mevis_u").samples(tmp_path / "MeViS"))
    results = write_results(tmp_path / "run", every)
    write_scores(score_benchmark(results, load_benchmark("mevis_u"), tmp_path / "MeViS"), results.parent)
    meta = tmp_path / "MeViS/valid_u/meta_expressions.json"
    content = json.loads(meta.read_text())
    for video in content["videos"].values():
        video["frames"].pop()
    meta.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"was predicted on \d+ frames, the data under --root have \d+"):
        report_folder(results.parent, tmp_path / "other.html", tmp_path / "MeViS")


def test_what_cannot_be_scored_is_named_and_not_drawn(tmp_path: Path) -> None:
    write_layout("mevis", tmp_path / "MeViS", clips=1)
    benchmark = load_benchmark("mevis_u")
    every = list(benchmark.samples(tmp_path / "MeViS"))
    results = write_results(tmp_path / "run", every)
    masks = tmp_path / "MeViS/valid_u/mask_dict.json"
    content = json.loads(masks.read_text())
    content[every[0].expression.anno_ids[0]].pop()
    masks.write_text(json.dumps(content))
    scores = score_benchmark(results, benchmark, tmp_path / "MeViS")
    assert every[0].id in scores.broken
    write_scores(scores, results.parent)
    page = words(report_folder(results.parent, tmp_path / "r.html", tmp_path / "MeViS"))
    assert "or no usable annotation and count 0" in page and "mask list has" in page
    assert "own tool counts 0 for a whole clip" in page


def test_a_training_run_that_holds_evaluations_is_reported_as_a_whole(
    folder: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder[0], tmp_path / "run" / "revos")
    (tmp_path / "run" / "summary.json").write_text("{}")
    asked: list[Path] = []

    def write_report(run_dir: Path, out: Path) -> Path:
        asked.append(run_dir)
        return out

    monkeypatch.setattr("verl_ext.quickstart.report.write_report", write_report)
    done = CliRunner().invoke(app, ["report", str(tmp_path / "run")])
    assert done.exit_code == 0 and asked == [tmp_path / "run"]
    for option in (["--root", "x"], ["--shown", "2"]):
        refused = CliRunner().invoke(app, ["report", str(tmp_path / "run"), *option])
        assert refused.exit_code == 2 and f"{option[0]}: belongs to an evaluation" in " ".join(refused.output.split())
    inside = CliRunner().invoke(app, ["report", str(tmp_path / "run" / "revos")])
    assert inside.exit_code == 0 and len(asked) == 1


def test_small_parts() -> None:
    assert [signed(v) for v in (1.25, -0.5, 0, None)] == ["+1.2", "\N{MINUS SIGN}0.5", "+0.0", "-"]
    assert facts({"a": {"b": 1, "c": None}, "d_e": [], "f_g": 0}) == [("a.b", "1"), ("f g", "0")]
    svg = histogram("c", [0, 4.99, 5, 100, -3, 120], 0, 100, "x")
    assert "0 to 5: 3 of 6" in svg and "5 to 10: 1 of 6" in svg and "95 to 100: 2 of 6" in svg
    both = histogram("c", [-1.0, 1.0], -10, 10, "x", zero=True)
    assert both.count('class="bar s0"') == both.count('class="bar s1"') == 1 and histogram("c", [], 0, 1, "x") == ""


def test_long_clips_are_drawn_in_stretches() -> None:
    import numpy as np

    gt = np.zeros(2000, bool)
    gt[400:900] = gt[1000:1100] = True
    drawn = timeline(gt, ~gt, [("turn 1 picks", Grounding(400, 899, 600))])
    assert drawn.count('class="cell gt"') == 2 and drawn.count('class="cell pred"') == 3
    wide = [float(w) for w in re.findall(r'width="([\d.]+)"[^>]*class="cell gt"', drawn)]
    assert wide[0] == pytest.approx(5 * wide[1], rel=0.02)
