"""Work in processes: in the order of its pieces, and with one thread each."""

from __future__ import annotations

import os

import pytest

from data_construction.processes import THREADS, in_order


def seen(piece: int) -> tuple[int, int, list[str | None]]:
    """A number, and what the process that has it would tell its linear algebra."""
    return piece, os.getpid(), [os.environ.get(name) for name in THREADS]


def test_processes_have_a_thread_each_and_this_one_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    before = dict(os.environ)
    found = list(in_order(seen, range(8), processes=2))
    assert [piece for piece, _, _ in found] == list(range(8))
    assert {process for _, process, _ in found}.isdisjoint({os.getpid()})
    assert all(told == ["1"] * len(THREADS) for _, _, told in found)
    assert dict(os.environ) == before
    assert [told[0] for _, _, told in in_order(seen, range(2))] == ["7", "7"], "few pieces are done here"
