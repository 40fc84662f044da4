"""Losses and gradients that are no numbers are said at the step, counted, and in the report."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from verl.utils import tensordict_utils as tu

from verl_ext.engine.workers import whole_batch_metrics
from verl_ext.quickstart.report import write_report
from verl_ext.run.not_finite import not_finite, run_in_words, skipped_updates, step_in_words
from verl_ext.run.run_files import LIVE_METRICS, METRICS, read_metrics
from verl_ext.run.watched import Watched

NAN, INF = float("nan"), float("inf")


def test_what_counts() -> None:
    assert skipped_updates({"actor/grad_norm": 1.0, "actor/skipped_updates": 0.0}) == 0
    assert skipped_updates({"actor/grad_norm": NAN, "actor/skipped_updates": 3.0}) == 3
    assert skipped_updates({"train/grad_norm": [[INF]]}) == 1  # a run of a version that did not count
    assert not_finite({"reward/mean": NAN, "actor/loss": -INF, "lm": 2.0, "perf/mfu": NAN, "dice": [[NAN]]}) == [
        "reward/mean",
        "actor/loss",
        "dice",
    ]
    assert step_in_words(3, {"actor/loss": 1.0}) is None
    assert step_in_words(3, {"lm": NAN}) == "step 3: not finite: lm"
    said = step_in_words(3, {"train/grad_norm": INF})
    assert said == "step 3: not finite: train/grad_norm; 1 update was skipped, nothing was learnt from it"


def test_the_worker_counts_what_verl_skips() -> None:
    assert whole_batch_metrics({"grad_norm": 2.0})["skipped_updates"] == 0.0
    assert whole_batch_metrics({"grad_norm": NAN})["skipped_updates"] == 1.0
    assert "skipped_updates" not in whole_batch_metrics({"loss": 2.0})  # a pass without an update


def rows(bad: range, steps: int = 10) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = [{"step": 0, "data": {"val/jf": 1.0}}]
    for n in range(1, steps + 1):
        broken = n in bad
        data = {"reward/mean": NAN if n == steps and broken else 1 + n / 10, "actor/loss": NAN if broken else 0.5}
        data |= {"actor/grad_norm": INF if broken else 2.0, "actor/skipped_updates": 2.0 if broken else 0.0}
        out.append({"step": n, "data": data})
    return out


def test_the_whole_run_in_words() -> None:
    assert run_in_words(rows(range(0))) is None and run_in_words([]) is None
    said = run_in_words(rows(range(5, 11)))
    assert said is not None and said.startswith("6 of 10 steps have losses, rewards or gradients that are not finite")
    assert "the first is step 5" in said and "12 updates were skipped" in said


def test_it_is_said_at_the_step_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    live, shown = tmp_path / LIVE_METRICS, []
    watched = Watched(tmp_path, 10, lambda *x: shown.append(x), lambda metrics: "reward\n1.0 s: rollout 1.0")
    good, bad = rows(range(2, 4), 3)[1:3]
    live.write_text(json.dumps(good) + "\n")
    watched.report()
    assert not caplog.records and shown[-1][2] == "reward\n1.0 s: rollout 1.0"
    live.write_text(live.read_text() + json.dumps(bad) + "\n")
    watched.report()
    watched.report()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "step 2: not finite: actor/loss, actor/grad_norm" in record.message
    assert shown[-1][2] == "reward, skipped updates: 2\n1.0 s: rollout 1.0"


def test_it_is_said_without_a_display_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / LIVE_METRICS).write_text(json.dumps(rows(range(1, 2), 1)[1]) + "\n")
    Watched(tmp_path, 1, None, lambda metrics: "").report()
    assert len(caplog.records) == 1


def test_reports_bear_it_and_show_numbers_where_results_stand(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows(range(5, 11))))
    page = write_report(tmp_path, tmp_path / "report.html").read_text()
    assert re.search(r'class="warning">6 of 10 steps', page) and "12 updates were skipped" in page
    assert "1.10 → 1.90" in page and "→ nan" not in page


def test_an_update_of_the_real_engine_that_is_skipped(build_worker: Callable[..., Any], tiny_recipe: Any) -> None:
    """verl leaves the weights as they are; the metrics say so."""
    from functools import partial

    from tests.verl_ext.engine.test_engine import data_of, parameters
    from verl_ext.objective.sft_loss import supervised_loss

    worker = build_worker(tiny_recipe("sft", "optim.lr=0.01"))
    for scale, skipped in ((float("inf"), 1.0), (1.0, 0.0)):
        worker.set_loss_fn(partial(supervised_loss, config=None, lm=scale))
        before = parameters(worker)
        metrics = dict(tu.get(worker.train_batch(data_of(worker)), "metrics"))
        assert metrics["skipped_updates"] == skipped
        after = parameters(worker)
        assert all(torch.equal(before[n], after[n]) for n in before) is bool(skipped)


def test_rows_are_read_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text(json.dumps({"step": 1, "data": {"lm": NAN}}) + "\n")
    assert not_finite(read_metrics(tmp_path / METRICS)[0]["data"]) == ["lm"]
