"""What the segmenter reaches from true prompts: measured, kept, filtered by, shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from data_construction.ceiling import (
    Ceiling,
    best_keyframe,
    measure_ceiling,
    read_ceilings,
    true_boxes,
    write_ceilings,
)
from data_construction.readers import open_dataset
from data_construction.synthetic import make_synthetic
from eval.report.ceiling import with_ceilings
from eval.scores.in_memory import score_results
from rewards.segmenter import (
    BoxRequest,
    RequestScorer,
    Segmenter,
    SegmenterConfig,
    encode_rles,
    mask_iou,
    mask_to_clip_size,
)
from rewards.segmenter.best_state import best_states, fitted_frames
from rollout.errors import DataError
from rollout.types import Masklets
from tests.eval.clips import record, samples
from verl_ext.cli.main import app

TINY = SegmenterConfig(image_size=64, d_model=32, mem_dim=16, memory_feedforward=32, propagation_gate=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "synthetic"
    make_synthetic(root, clips={"train": 2}, seed=0, frames=(12, 12), size=64)
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(Segmenter(SegmenterConfig()).model.state_dict(), path)
    return path


def masklets_of(masks: np.ndarray) -> Masklets:
    """(O, T, H, W) bool."""
    rles = tuple(tuple(r if m.any() else None for r, m in zip(encode_rles(o), o, strict=True)) for o in masks)
    return Masklets(*masks.shape[2:], rles, masks.shape[1])


def test_the_keyframe_shows_most_objects_and_boxes_hold_them() -> None:
    masks = np.zeros((2, 4, 10, 12), dtype=np.bool_)
    masks[0, 0, 1:9, 1:9] = True  # alone, and large
    masks[0, 1, 2:4, 3:6] = masks[1, 1, 5:7, 0:2] = True
    masks[0, 2, 2:5, 3:6] = masks[1, 2, 5:9, 7:12] = True  # both, and larger
    truth = masklets_of(masks)
    assert best_keyframe(truth) == 2
    assert true_boxes(truth, 2) == [(3.0, 2.0, 6.0, 5.0), (7.0, 5.0, 12.0, 9.0)]
    assert true_boxes(truth, 3) == [] and best_keyframe(masklets_of(np.zeros((1, 3, 4, 4), dtype=np.bool_))) is None


class Perfect:
    """Stands for a segmenter that answers true boxes with the true masks."""

    def __init__(self, dataset: object) -> None:
        self.asked: list[BoxRequest] = []
        self.truth = {s.clip.name: [] for s in dataset.samples()}  # type: ignore[attr-defined]
        for s in dataset.samples():  # type: ignore[attr-defined]
            self.truth[s.clip.name].append(s.masklets)

    def score(self, requests: list[BoxRequest]) -> list[object]:
        self.asked += requests
        return [self._answer(request) for request in requests]

    def _answer(self, request: BoxRequest) -> object:
        fits = [m for m in self.truth[request.clip.name] if true_boxes(m, request.keyframe) == list(request.boxes)]
        rles = tuple(encode_rles(np.stack([fits[0].union(t) for t in range(fits[0].num_frames)])))
        return type("Answer", (), {"rles": rles})()


def test_true_masks_reach_100_and_equal_objects_are_asked_once(data: Path) -> None:
    dataset = open_dataset("revos", data, "train")
    perfect = Perfect(dataset)
    rows = list(measure_ceiling(dataset, perfect, pytest.fail))  # type: ignore[arg-type]
    assert len(rows) == len(dataset) and {row.boxes for row in rows} == {100.0}
    distinct = {(s.clip.name, s.expression.anno_ids) for s in dataset.samples() if s.expression.anno_ids}
    assert len(perfect.asked) == len(distinct) < len(rows)
    assert {row.keyframe for row in rows if row.objects == 0} <= {None}


def test_the_descent_finds_a_state_for_masks_that_some_state_draws(data: Path) -> None:
    segmenter = Segmenter(TINY)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in segmenter.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.1)
    scorer = RequestScorer(segmenter)
    clip = next(iter(open_dataset("revos", data, "train").samples())).clip
    features = scorer.cache.features(clip, range(clip.num_frames))

    def drawn(state: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return mask_to_clip_size(segmenter.decode(features, range(12), state.expand(12, -1))[0], 64, 64)

    hidden = torch.randn(32, generator=generator) * 10
    truth = masklets_of(drawn(hidden).numpy()[None])
    keyframe = best_keyframe(truth)
    assert keyframe is not None
    before = {n: p.clone() for n, p in segmenter.named_parameters()}
    found = torch.from_numpy(best_states(scorer, clip, [(truth, keyframe)])[0])
    assert all(torch.equal(p, before[n]) and p.grad is None for n, p in segmenter.named_parameters())
    frames = fitted_frames(truth, keyframe)
    assert frames[0] == keyframe and len(set(frames)) == 4
    ious = [mask_iou(drawn(s)[frames], drawn(hidden)[frames]).mean() for s in (found, torch.zeros(32))]
    assert ious[0] > ious[1] + 0.05, ious


def test_check_writes_them_and_sample_filters_by_them(data: Path, weights: Path, tmp_path: Path) -> None:
    args = ["data", "check", "revos", str(data), "--ceiling", "--segmenter", str(weights), "--preset", "tiny"]
    done = CliRunner().invoke(app, [*args, "--ceiling-out", str(tmp_path), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    split = json.loads(done.stdout)["splits"]["train"]
    path = tmp_path / "ceiling_train.jsonl"
    rows = read_ceilings(path, "revos", "train")
    assert len(rows) == split["expressions"]
    assert split["ceiling"] == {"boxes": pytest.approx(np.mean([r.boxes for r in rows.values()]), abs=0.01)}
    means = [one["boxes"] for one in split["ceiling_by_clip"].values()]
    assert len(means) == 2 and means == sorted(means)

    least = float(np.median([row.boxes for row in rows.values()]))
    kept = {key for key, row in rows.items() if row.boxes >= least}
    ids = tmp_path / "ids.jsonl"
    sample = ["data", "sample", "revos", str(data), "--no-annotations", "--ids", str(ids), "--min-ceiling", str(least)]
    done = CliRunner().invoke(app, [*sample, "--ceiling", str(path), "--size", str(len(kept))], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    drawn = [json.loads(line) for line in ids.read_text().splitlines()]
    assert {(d["clip"], d["expression_id"]) for d in drawn} == kept and len(kept) < len(rows)


def test_a_policys_head_is_measured_from_boxes_and_seg(data: Path, tiny_policy: Path, tmp_path: Path) -> None:
    args = ["data", "check", "revos", str(data), "--ceiling", "--policy", str(tiny_policy)]
    done = CliRunner().invoke(app, [*args, "--ceiling-out", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "ceiling: J&F from [SEG]" in done.stdout
    rows = read_ceilings(tmp_path / "ceiling_train.jsonl")
    assert all(row.seg is not None and 0 <= row.seg <= 100 for row in rows.values())


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("check revos ROOT --ceiling", "give either --segmenter FILE"),
        ("check revos ROOT --ceiling --segmenter W --policy ROOT", "give either --segmenter FILE"),
        ("check revos ROOT --segmenter W", "needs --ceiling"),
        ("check revos ROOT --ceiling --policy ROOT", "has no segmentation head"),
        ("check revos ROOT --ceiling --segmenter W --preset sam3", "holds SAM 2, not SAM 3"),
        ("check revos ROOT --ceiling --segmenter W --preset large", "--preset large: known are"),
        ("check revos ROOT --ceiling --segmenter W --preset tiny --device tpu", "wants cpu or cuda"),
        ("sample revos ROOT --size 1 --ceiling W", "needs --min-ceiling"),
        ("sample revos ROOT --size 1 --min-ceiling 120", "is J&F in percent"),
        ("sample revos ROOT --size 1 --min-ceiling 50", "ceiling_train.jsonl: no such file"),
        ("sample revos ROOT --size 1 --min-ceiling 50 --ceiling W", "is not a file of ceilings"),
    ],
)
def test_bad_requests_are_named(data: Path, weights: Path, command: str, words: str) -> None:
    args = [{"ROOT": str(data), "W": str(weights)}.get(part, part) for part in command.split()]
    done = CliRunner().invoke(app, ["data", *args])
    assert done.exit_code != 0
    assert words in " ".join(done.output.split()) or words in str(done.exception)


def test_files_of_something_else_are_named(tmp_path: Path) -> None:
    path = tmp_path / "ceiling_valid.jsonl"
    write_ceilings(path, {"dataset": "mevis", "split": "valid"}, [Ceiling("a", "0", 1, 1, 50.0)])
    assert read_ceilings(path)["a", "0"].boxes == 50.0
    with pytest.raises(DataError, match="ceilings of dataset 'mevis', not 'revos'"):
        read_ceilings(path, "revos")
    with pytest.raises(DataError, match="ceilings of split 'valid', not 'train'"):
        read_ceilings(path, "mevis", "train")
    with pytest.raises(DataError, match=r"a/0: has no ceiling from \[SEG\]"):
        read_ceilings(path)["a", "0"].of("seg")
    path.write_text(path.read_text().replace('"boxes"', '"boxen"'))
    with pytest.raises(DataError, match="is not a file of ceilings"):
        read_ceilings(path)


def test_they_stand_beside_an_evaluations_scores(tmp_path: Path) -> None:
    truth = samples(tmp_path)
    scores = score_results([record(s, None) for s in truth], truth)
    rows = [Ceiling(s.clip.name, s.expression.id, 0, 1, 40.0 + i) for i, s in enumerate(truth)]
    path = tmp_path / "ceiling_valid.jsonl"
    write_ceilings(path, {"dataset": "revos", "split": "valid"}, rows)
    beside = with_ceilings(scores, path)
    assert beside.overall.baselines["ceiling_boxes"].mean == pytest.approx(np.mean([row.boxes for row in rows]))
    assert beside.overall.metrics == scores.overall.metrics
    assert {"ceiling_boxes"} == set(beside.overall.baselines) - set(scores.overall.baselines)
    for label, group in beside.by_kind.items():
        mine = [r.boxes for r, s in zip(rows, beside.expressions, strict=True) if (s.kind or "untyped") == label]
        assert group.baselines["ceiling_boxes"].mean == pytest.approx(np.mean(mine))
    write_ceilings(path, {"dataset": "revos", "split": "valid"}, rows[1:])
    with pytest.raises(DataError, match=f"has no ceiling of 1 of {len(rows)} scored expressions"):
        with_ceilings(scores, path)
    broken = replace(scores, expressions=[replace(scores.expressions[0], broken=True), *scores.expressions[1:]])
    with_ceilings(broken, path)
