"""The check's counts and its scoring of ground truth against itself."""

from __future__ import annotations

import json
from pathlib import Path

from data_construction.check import check_dataset
from data_construction.check_score import self_score
from data_construction.readers import open_dataset
from rollout.types import Clip, Expression, Sample
from tests.data_construction.conftest import CLIPS


def test_a_sound_data_set_passes_and_is_counted(synthetic: Path) -> None:
    report = check_dataset("revos", synthetic)
    assert report.ok, report.table()
    assert {s: c.clips for s, c in report.splits.items()} == CLIPS
    meta = json.loads((synthetic / "meta_expressions_train_.json").read_text())["videos"]
    expressions = [e for v in meta.values() for e in v["expressions"].values()]
    train = report.splits["train"]
    assert train.expressions == train.scored == train.traces == train.rl_annotations == len(expressions)
    assert train.frames == sum(len(v["frames"]) for v in meta.values())
    assert train.types["no target"] == sum(e["type_id"] == 2 for e in expressions)
    assert train.kinds["count"] == sum(e["kind"] == "count" for e in expressions)
    assert train.targets["0"] == train.types["no target"]
    assert all(c.set_aside == 0 for c in report.splits.values())
    assert all(c.self_jf == 1.0 for c in report.splits.values())
    table = report.table()
    assert "no problems found" in table and len(table.splitlines()) < 45
    assert max(len(line) for line in table.splitlines()) <= 110
    assert json.loads(json.dumps(report.to_dict()))["splits"]["train"]["kinds"] == train.kinds


def test_self_score_is_none_without_masks(synthetic: Path) -> None:
    clip = open_dataset("revos", synthetic, "test").clip("test_00000")
    assert self_score(Sample(clip, Expression("0", "x"))) is None
    assert isinstance(clip, Clip)
