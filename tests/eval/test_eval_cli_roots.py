"""``videoseg eval``: where each benchmark's data lie, and where its results go."""

from __future__ import annotations

from pathlib import Path

import pytest

from rollout.errors import DataError
from verl_ext.evaluation.targets import benchmark_targets, dataset_target


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    for name in ("ReVOS", "MeViS", "Ref-DAVIS17"):
        (tmp_path / "sets" / name).mkdir(parents=True)
    return tmp_path / "sets"


def roots(names: str, *given: Path | str) -> list[Path]:
    return [t.root for t in benchmark_targets(names, [str(g) for g in given], Path("out"))]


def test_one_folder_may_hold_all_data_sets(parent: Path) -> None:
    found = roots("revos,mevis_u,mevis_valid,ref_davis17", parent)
    assert found == [parent / n for n in ("ReVOS", "MeViS", "MeViS", "Ref-DAVIS17")]


def test_a_single_data_set_may_be_the_folder_itself(parent: Path) -> None:
    assert roots("mevis_u,mevis_valid", parent / "MeViS") == [parent / "MeViS"] * 2
    assert roots("revos", parent / "ReVOS") == [parent / "ReVOS"]


def test_named_roots_go_before_the_parent(parent: Path) -> None:
    assert roots("revos,mevis_u", "revos=/data/r", parent) == [Path("/data/r"), parent / "MeViS"]
    assert roots("mevis_u,mevis_valid", "mevis=/data/m") == [Path("/data/m")] * 2


def test_each_benchmark_has_a_folder_of_its_own(parent: Path) -> None:
    assert [t.out for t in benchmark_targets("revos,mevis_u", [str(parent)], Path("out"))] == [
        Path("out/revos"),
        Path("out/mevis_u"),
    ]
    assert dataset_target("revos", ["d"], "test", Path("out")).out == Path("out")


@pytest.mark.parametrize(
    ("names", "given", "message"),
    [
        ("revos,long_rvos", ["PARENT"], r"no folder for benchmark long_rvos.*--root long_rvos=DIR"),
        ("revos", [], r"0 folders for benchmark revos"),
        ("revos", ["a", "b"], r"2 folders for benchmark revos"),
        ("revos", ["/nowhere"], r"/nowhere is not a folder"),
        ("revoss", ["PARENT"], r"no benchmark called 'revoss'"),
        ("revos,revos", ["PARENT"], r"revos is named twice"),
        (" , ", ["PARENT"], r"names none"),
    ],
)
def test_what_cannot_be_found_is_named(parent: Path, names: str, given: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        roots(names, *[g.replace("PARENT", str(parent)) for g in given])
