"""Rate, cost and time left beside a bar."""

from __future__ import annotations

import pytest

from data_construction.vlm import Ledger, Prices, Usage
from verl_ext.cli import trace_jobs


def test_the_rate_is_of_this_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    now, said = [100.0], []
    monkeypatch.setattr(trace_jobs.time, "monotonic", lambda: now[0])
    ledger = Ledger(Prices(1.0, 1.0), spent_before=3.0)
    pace = trace_jobs.Pace(lambda *call: said.append(call), known=1200, ledger=ledger)
    pace(1000, 0, "taken up")  # By earlier runs.
    now[0] += 10.0
    ledger.add(Usage(1, 1, 0.5), 0)
    pace(1040, 0, "40 more")
    assert said == [
        (1000, 1200, "taken up, 0.0/s, cost 3.00"),
        (1040, 1200, "40 more, 4.0/s, cost 3.50, 40 s left"),
    ]
