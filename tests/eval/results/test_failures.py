"""``failed.jsonl``: a reason stays until its expression has a result or a newer reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.results.failures import Failure, FailuresFile, failure_reasons, read_failures
from rollout.errors import DataError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two failures of an earlier run."""
    path = tmp_path / "failed.jsonl"
    with FailuresFile(path) as failures:
        failures.append("a", "0", Failure("no GPU"))
        failures.append("b", "0", Failure("frame 3 is broken", "data"))
    return path


def test_reasons_stay_until_they_are_settled(path: Path) -> None:
    failures = FailuresFile(path)
    assert failures.count == 0 and failure_reasons(path) == {"a/0": "no GPU", "b/0": "frame 3 is broken"}
    failures.append("b", "0", Failure("frame 4 is broken", "data"))
    assert failure_reasons(path) == {"a/0": "no GPU", "b/0": "frame 4 is broken"}, "the later line holds"
    failures.succeeded(("a", "0"))
    assert failure_reasons(path) == {"b/0": "frame 4 is broken"} and failures.count == 1
    with failures:
        failures.succeeded(("b", "0"))
    assert not path.exists()


def test_a_run_that_is_stopped_before_it_tries_again_keeps_them(path: Path) -> None:
    with FailuresFile(path):
        pass
    assert len(read_failures(path)) == 2


def test_what_has_a_result_by_now_is_dropped(path: Path) -> None:
    FailuresFile(path, done={("a", "0")})
    assert list(failure_reasons(path)) == ["b/0"]


def test_an_expression_stands_there_once_in_the_end(path: Path) -> None:
    with FailuresFile(path) as failures:
        failures.append("a", "0", Failure("no GPU again"))
    assert [line["reason"] for line in read_failures(path)] == ["no GPU again", "frame 3 is broken"]


def test_a_torn_line_is_not_glued_to_the_next_one(path: Path) -> None:
    path.write_text(path.read_text() + '{"clip": "c", "expr')
    with FailuresFile(path) as failures:
        failures.append("d", "0", Failure("x"))
    assert list(failure_reasons(path)) == ["a/0", "b/0", "d/0"]


@pytest.mark.parametrize("line", ["{]", "[]", json.dumps({"clip": "a"})])
def test_what_is_no_failure_is_named(path: Path, line: str) -> None:
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError, match=r"failed\.jsonl, line 3: not a failure"):
        read_failures(path)
