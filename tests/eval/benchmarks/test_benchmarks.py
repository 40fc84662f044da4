"""Benchmarks are stanzas: all are there and hold together, wrong ones are refused, a new one touches nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_construction.readers import load_stanza
from data_construction.synthetic import make_synthetic
from eval.benchmarks import benchmark_names, load_benchmark
from eval.packagers.registry import packager_names
from eval.scores.benchmark import score_benchmark
from rewards.metrics.plain import plain_j
from rollout.errors import DataError
from tests.eval.answers import disturbed, truth, write_results

SCORED = {
    "revos": "revos",
    "mevis_u": "jf",
    "mevis_v2_u": "mevis_v2",
    "ref_davis17": "davis",
    "ref_sav": "ref_sav",
    "long_rvos": "long_rvos",
    "long_rvos_test": "long_rvos",
    "reasonvos": "jf",
    "groundmore": "jf",
    "vicas_val": "vicas",
    "vicas_test": "vicas",
    "generic": "jf",
}
SUBMITTED = {"mevis_valid": "mevis", "mevis_test": "mevis", "mevis_v2_valid": "mevis", "ref_ytvos": "ref_ytvos"}
BOTH = {"long_rvos_test": "long_rvos", "vicas_val": "vicas", "vicas_test": "vicas"}
"""Scored here, and packed for their own tools."""
OWN = """
dataset: mine_data.yaml
split: pilot
scorer: jf
groups: [kind, objects]
frames: 4
"""
OWN_DATA = """
annotation_format: meta_expressions
splits:
  pilot:
    annotations: meta_expressions_valid_.json
    mask_format: rle_dict
    masks: mask_dict.json
    frames: "JPEGImages/{clip}/{frame}.jpg"
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "data"
    make_synthetic(folder, {"valid": 2}, seed=5, frames=(12, 12), size=48)
    return folder


def test_every_benchmark_of_both_papers_is_there() -> None:
    assert set(benchmark_names()) == {*SCORED, *SUBMITTED}


@pytest.mark.parametrize("name", [*SCORED, *SUBMITTED])
def test_stanzas_hold_together(name: str) -> None:
    benchmark = load_benchmark(name)
    assert benchmark.name == name and benchmark.about
    assert benchmark.split in load_stanza(benchmark.dataset).splits
    assert benchmark.scorer == SCORED.get(name) and benchmark.submission == {**SUBMITTED, **BOTH}.get(name)
    assert benchmark.submission is None or benchmark.submission in packager_names()
    assert benchmark.server or name not in SUBMITTED
    assert benchmark.frames == (20 if name == "groundmore" else None)
    if name != "generic":
        assert benchmark.protocol["rollout.eval.initial_low_res"] == 20


def test_published_figures_are_those_of_the_papers() -> None:
    assert load_benchmark("revos").published["Veason-R1 7B"] == {"jf": 61.3, "robustness": 27.0}
    assert load_benchmark("mevis_valid").published["VideoSEG-O3 4B"] == {"jf": 60.0}


def test_the_protocol_is_a_recipe_that_loads() -> None:
    from verl_ext.recipe import recipe_from_overrides

    settings = [f"{key}={value}" for key, value in load_benchmark("revos").protocol.items()]
    source = 'data=[{"dataset": "revos", "root": "x", "split": "valid"}]'
    recipe = recipe_from_overrides("eval", ["stage=sft", "policy.path=x", source, "device=cuda", *settings])
    assert recipe.rollout.eval.budgets.keyframe == 512 and recipe.rollout.max_turns == 3


def test_a_new_benchmark_is_a_file_anywhere(tmp_path: Path, root: Path) -> None:
    (tmp_path / "mine.yaml").write_text(OWN)
    (tmp_path / "mine_data.yaml").write_text(OWN_DATA)
    benchmark = load_benchmark(tmp_path / "mine.yaml")
    assert benchmark.name == "mine" and benchmark.groups == ("kind", "objects")
    samples = list(benchmark.samples(root))
    assert {s.clip.num_frames for s in samples} == {12}, "all are predicted"
    scores = score_benchmark(write_results(tmp_path / "run", samples), benchmark, root)
    assert scores.jf == 100.0 and set(scores.groups) == {"kind", "objects"}
    assert scores.info["scored_frames"] == 4 and set(scores.info["frames_by_clip"].values()) == {12}


@pytest.mark.parametrize(
    ("frames", "right"),
    [
        (4, [0, 3, 7, 11]),
        (8, [0, 1, 3, 4, 6, 7, 9, 11]),
        (20, [0, 0, 1, 1, 2, 2, 3, 4, 4, 5, 5, 6, 6, 7, 8, 8, 9, 9, 10, 11]),
    ],
)
def test_all_frames_are_predicted_and_the_truncating_linspace_is_scored(
    tmp_path: Path, root: Path, frames: int, right: list[int]
) -> None:
    """Of 12 frames; below 20 some count twice, as in GroundMoRe."""
    (tmp_path / "mine.yaml").write_text(OWN.replace("frames: 4", f"frames: {frames}"))
    (tmp_path / "mine_data.yaml").write_text(OWN_DATA)
    benchmark = load_benchmark(tmp_path / "mine.yaml")
    samples = list(benchmark.samples(root))
    assert {s.clip.num_frames for s in samples} == {12}
    assert benchmark.scored_frames(benchmark.dataset_at(root), samples[0]) == tuple(right)
    scores = score_benchmark(write_results(tmp_path / "run", samples, disturbed), benchmark, root, exact=True)
    for sample, row in zip(samples, scores.expressions, strict=True):
        j = [plain_j(p, g) for p, g in zip(disturbed(sample), truth(sample), strict=True)]
        assert row.j == pytest.approx(100 * np.mean([j[t] for t in right]), abs=1e-9)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dataset: revos\nsplit: valid\nscroer: jf\n", "unknown key 'scroer'"),
        ("dataset: revos\n", "needs 'split'"),
        ("dataset: nowhere\nsplit: valid\n", "no data set 'nowhere'"),
        ("dataset: revos\nsplit: valid\nscorer: best\n", "no scorer 'best'"),
        ("dataset: revos\nsplit: valid\nsubmission: mevsi\n", "no packager 'mevsi'; there are long_rvos, mevis"),
        ("dataset: revos\nsplit: valid\nframes: true\n", "frames = True, wants int"),
        ("dataset: revos\nsplit: valid\ngroups: [colour]\n", "no grouping 'colour'"),
        ("dataset: revos\nsplit: valid\ngroups: type\n", "groups = 'type'"),
        ("dataset: revos\nsplit: valid\nframes: 0\n", "frames = 0"),
        ("dataset: revos\nsplit: valid\nmissing: half\n", "missing = 'half'; wants one of zero, left_out"),
        ("dataset: revos\nsplit: valid\npublished: {us: {jf: best}}\n", "published.us"),
        ("dataset: revos\nsplit: valid\nname: ../../x\n", "is not a plain name"),
        ("- revos\n", "a benchmark is a mapping"),
        ("dataset: [\n", "cannot be read as YAML"),
    ],
)
def test_wrong_stanzas_are_refused_by_name(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=r"wrong\.yaml") as error:
        load_benchmark(path)
    assert says in str(error.value)


def test_unknown_benchmark_lists_those_there_are() -> None:
    with pytest.raises(DataError, match=r"no benchmark called 'revo'; there are .*mevis_u"):
        load_benchmark("revo")


def test_scoring_imports_neither_torch_nor_ray() -> None:
    code = (
        "import sys, pkgutil, importlib\n"
        "import eval.benchmarks, eval.scorers, eval.scores.benchmark, eval.scores.pool_preload, eval.scores.files\n"
        "import verl_ext.cli.score\n"
        "eval.scorers.scorer_names(); [eval.benchmarks.load_benchmark(n) for n in eval.benchmarks.benchmark_names()]\n"
        "heavy = {'torch', 'torchvision', 'transformers', 'verl', 'vllm', 'ray', 'sam2'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
