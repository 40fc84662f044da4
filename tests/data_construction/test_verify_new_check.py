"""A check of one's own is one function; nothing else changes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_construction.traces import Sources
from data_construction.verify import Case, check_names, register_check, verify
from data_construction.verify.registry import _CHECKS
from rollout.errors import RecipeError
from tests.data_construction.trace_files import boxed, planned, read, write


@pytest.fixture
def own_check() -> Iterator[None]:
    check_names()

    @register_check("no_circles", methods=("videoseg_o3",))
    def no_circles(case: Case) -> str | None:
        """circles are not asked for"""
        return "asks for a circle" if "circle" in case.sample.expression.text else None

    yield
    del _CHECKS["no_circles"]


@pytest.mark.usefixtures("own_check")
def test_a_new_check_takes_part(synthetic: Path, tmp_path: Path) -> None:
    lines = planned(synthetic) + boxed(synthetic, "test")[:5]
    report = asyncio.run(verify(write(tmp_path / "t.jsonl", lines), tmp_path / "out", Sources.parse([str(synthetic)])))
    expected = [d["id"] for d in lines if d["method"] == "videoseg_o3" and "circle" in d["exp"]]
    assert [d["id"] for d in read(tmp_path / "out/rejected.jsonl")] == expected
    assert report.rejected == {"no_circles": len(expected)}
    assert check_names()["no_circles"] == "circles are not asked for"
    with pytest.raises(RecipeError, match="already registered"):
        register_check("no_circles")(lambda case: None)
