"""Every data set, broken in ten ways and more: each fault is named with file and clip, and the rest is read on."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from data_construction.layouts import SPLITS, write_layout
from data_construction.readers import open_dataset
from rollout.errors import DataError
from tests.data_construction.faults import Broken
from tests.data_construction.faults_images import IMAGES
from tests.data_construction.faults_training import TRAINING
from tests.data_construction.faults_video import VIDEO

CASES = [*VIDEO, *IMAGES, *TRAINING]


@pytest.fixture(scope="session")
def small_layouts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only: two clips a split, cheap to copy."""
    root = tmp_path_factory.mktemp("small")
    for name in SPLITS:
        write_layout(name, root / name, clips=2)
    return root


def test_there_are_ten_ways_for_each() -> None:
    ways = Counter(c.dataset for c in CASES)
    assert set(ways) == set(SPLITS) and min(ways.values()) >= 10, ways
    assert len({str(c) for c in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_fault_is_named_and_the_rest_is_read(case: Broken, small_layouts: Path, tmp_path: Path) -> None:
    root = tmp_path / case.dataset
    shutil.copytree(small_layouts / case.dataset, root)
    before = [s.id for s in open_dataset(case.dataset, root, case.split).samples()]
    code, *words = case.fault(root)
    if not code:
        with pytest.raises(DataError) as stopped:
            open_dataset(case.dataset, root, case.split, strict=True)
        assert all(w in str(stopped.value) for w in words), stopped.value
        return
    data = open_dataset(case.dataset, root, case.split)
    problems = data.validate()
    named = [str(p) for p in problems if p.code == code]
    assert any(all(w in n for w in words) for n in named), "\n".join(f"[{p.code}] {p}" for p in problems)
    assert {p.clip for p in problems} <= {case.clip, "", "?", "record 0"}, problems
    assert any(str(root) in n for n in named)
    with pytest.raises(DataError):
        open_dataset(case.dataset, root, case.split, strict=True)
    errors: list[DataError] = []
    after = [s.id for s in data.samples(errors.append, frames="decode")]
    if code == "unusable_masks":  # The whole file is lost.
        assert after == [] and errors
        return
    assert set(after) >= {i for i in before if not i.startswith(f"{case.clip}/")}
    if code == "no_expressions":  # Nothing to ask about a clip is no fault of the others, nor of a sample.
        assert len(after) < len(before) and not errors
        return
    if code not in ("duplicate_frame", "target_type", "no_annotation", "never_visible", "stray_mask", "existence"):
        assert len(after) < len(before) or errors
        assert errors and str(root) in str(errors[0])
