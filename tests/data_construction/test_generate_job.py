"""A job from beginning to end: order, restarts, bad data, caps, a server that is gone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_construction.generate import JobFolder, estimate_job, run_job
from data_construction.readers import open_dataset
from data_construction.vlm import EndpointError, Prices
from rollout.errors import DataError
from tests.data_construction.cot_jobs import files, lines, seed_job, vts_job
from tests.data_construction.fault_server import FaultServer, running, sensible

Edit = Callable[[Path, Callable[[Any], object]], None]


def all_ids(root: Path, split: str = "train") -> list[str]:
    data = open_dataset("revos", root, split)
    return [f"revos/{split}/{clip}/{e.id}" for clip in data.clips() for e in data.expressions(clip)]


def train_file(root: Path) -> Path:
    name = open_dataset("revos", root, "train").files.annotations
    assert name is not None
    return root / name


def test_every_expression_once_in_the_data_sets_order_and_nothing_asked_twice(tiny: Path, tmp_path: Path) -> None:
    with running(FaultServer()) as server:
        summary, ledger = run_job(vts_job(tiny, tmp_path, server.url))
        asked, before = sum(server.bodies.values()), files(tmp_path)
        again, second = run_job(vts_job(tiny, tmp_path, server.url))
        assert sum(server.bodies.values()) == asked == ledger.answered
    assert [t["id"] for t in lines(tmp_path / "traces.jsonl")] == all_ids(tiny)
    assert summary.complete and summary.made == len(all_ids(tiny))
    assert again.complete and again.there == summary.made and second.sent == 0
    assert files(tmp_path) == before and set(before) >= {"traces.jsonl", "vts_cot.json", "rl_annotations.json"}


def test_faults_on_the_way_leave_no_trace_in_the_files(tiny: Path, tmp_path: Path) -> None:
    faults = ("limit", "500", "half", "garbled", "drop", "prose")
    with running(FaultServer()) as calm, running(FaultServer()) as rough:
        rough.faults = lambda n: faults[len(rough.bodies) % 6] if n == 0 and len(rough.bodies) % 3 == 0 else None
        run_job(vts_job(tiny, tmp_path / "calm", calm.url))
        summary, ledger = run_job(vts_job(tiny, tmp_path / "rough", rough.url))
    assert summary.complete and ledger.retried.total() >= 5
    assert files(tmp_path / "rough") == files(tmp_path / "calm")


def break_three_ways(root: Path, edit: Edit) -> dict[str, str]:
    """Code -> id of each item that has to be set aside."""
    data = open_dataset("revos", root, "train")
    first, second, third = data.clips()
    by_clip = {c: {e.id: e for e in data.expressions(c) if e.anno_ids} for c in (first, second)}
    short = next(iter(by_clip[first].values()))
    edit(root / "mask_dict.json", lambda m: m[short.anno_ids[0]].pop())
    lone = next(iter(by_clip[second].values()))

    def change(raw: Any) -> None:
        raw["videos"][second]["expressions"][lone.id]["anno_id"] = [987654]
        raw["videos"][third]["expressions"] = {}

    edit(train_file(root), change)
    return {"mask_count": short.id, "no_masks": lone.id, "no_expressions": third}


def test_bad_items_are_named_counted_and_set_aside_and_cured_ones_made_later(
    broken: Path, edit: Edit, tmp_path: Path
) -> None:
    annotations, masks = train_file(broken).read_bytes(), (broken / "mask_dict.json").read_bytes()
    expected = break_three_ways(broken, edit)
    out = tmp_path / "out"
    with running(FaultServer()) as server:
        summary, _ = run_job(vts_job(broken, out, server.url))
        failed = lines(out / "failed.jsonl")
        assert not summary.complete and summary.made > 0
        assert set(summary.set_aside) == set(expected) and summary.set_aside.total() == len(failed)
        for code, name in expected.items():
            hits = [f for f in failed if f["reason"].startswith(f"{code}: ")]
            assert hits and all(f["status"] == "failed" and f["clip"] in f["reason"] for f in hits)
            assert any(f["id"].endswith(f"/{name}") for f in hits)
        assert not {f["id"] for f in failed} & {t["id"] for t in lines(out / "traces.jsonl")}
        train_file(broken).write_bytes(annotations)
        (broken / "mask_dict.json").write_bytes(masks)
        cured, _ = run_job(vts_job(broken, out, server.url))
    assert cured.complete and cured.there == summary.made and cured.made > 0
    assert (out / "failed.jsonl").read_bytes() == b""
    assert [t["id"] for t in lines(out / "traces.jsonl")] == all_ids(broken)


@pytest.mark.parametrize("how", ["missing", "cut", "no image"])
def test_a_frame_that_cannot_be_read_sets_its_items_aside_by_name(broken: Path, tmp_path: Path, how: str) -> None:
    data = open_dataset("revos", broken, "train")
    clip = data.clip(data.clips()[1])
    frame = Path(clip.frames[0])  # Every trace shows the first frame.
    whole = frame.read_bytes()
    frame.unlink()
    if how != "missing":
        frame.write_bytes(whole[: len(whole) // 2] if how == "cut" else b"hello")
    with running(FaultServer()) as server:
        summary, _ = run_job(vts_job(broken, tmp_path / "out", server.url))
    failed = lines(tmp_path / "out" / "failed.jsonl")
    assert {f["clip"] for f in failed} == {clip.name} and len(failed) == len(data.expressions(clip.name))
    assert all(str(frame) in f["reason"] and "frame 0" in f["reason"] for f in failed)
    assert summary.set_aside.total() == len(failed) and summary.made == len(all_ids(broken)) - len(failed)


def test_a_target_that_is_never_visible_is_set_aside(broken: Path, edit: Edit, tmp_path: Path) -> None:
    data = open_dataset("revos", broken, "train")
    clip = data.clips()[0]
    target = next(e for e in data.expressions(clip) if len(e.anno_ids) == 1)
    edit(broken / "mask_dict.json", lambda m: m.update({target.anno_ids[0]: [None] * 12}))
    with running(FaultServer()) as server:
        for make in (seed_job, vts_job):
            out = tmp_path / make.__name__
            summary, _ = run_job(make(broken, out, server.url))
            failed = {f["id"]: f["reason"] for f in lines(out / "failed.jsonl")}
            assert f"revos/train/{clip}/{target.id}" in failed
            assert set(summary.set_aside) == {"never_visible"} and summary.made > 0


def test_replies_that_never_come_right_fail_one_item_each(tiny: Path, tmp_path: Path) -> None:
    with running(FaultServer()) as server:
        server.answer = lambda body: "{}"
        summary, ledger = run_job(seed_job(tiny, tmp_path, server.url, {"limit": 3}, prices=Prices(1.0, 1.0)))
        failed = lines(tmp_path / "failed.jsonl")
    assert dict(summary.failed) == {"missing_field": 3} and summary.made == 0
    assert all(f["reason"].startswith("missing_field: ") and f["usage"]["completion_tokens"] == 120 for f in failed)
    assert ledger.spent == pytest.approx(sum(f["usage"]["cost"] for f in failed))


def test_a_failure_in_a_later_turn_counts_the_turns_before(tiny: Path, tmp_path: Path) -> None:
    with running(FaultServer()) as server:
        server.answer = lambda body: sensible(body) if len(body["messages"]) == 2 else "{}"
        run_job(vts_job(tiny, tmp_path, server.url))
    failed = lines(tmp_path / "failed.jsonl")
    assert failed and all(f["usage"]["completion_tokens"] == 4 * 40 for f in failed)  # One sound reply, three bad.
    assert all(len(t["record"]["cot_trace"]) == 1 for t in lines(tmp_path / "traces.jsonl"))


def test_a_server_that_is_gone_ends_the_job_and_loses_nothing(tiny: Path, tmp_path: Path) -> None:
    with running(FaultServer()) as server:
        run_job(vts_job(tiny, tmp_path / "calm", server.url))
        server.faults = lambda _: None if len(server.bodies) < 40 else "drop"
        server.bodies.clear()
        with pytest.raises(EndpointError, match="in a row"):
            run_job(vts_job(tiny, tmp_path / "out", server.url, attempts=2))
        made = len(lines(tmp_path / "out" / "traces.jsonl"))
        assert 0 < made < len(all_ids(tiny)) and lines(tmp_path / "out" / "failed.jsonl")
        server.faults = lambda _: None
        summary, _ = run_job(vts_job(tiny, tmp_path / "out", server.url))
    assert summary.there == made and files(tmp_path / "out") == files(tmp_path / "calm")


def test_a_spend_cap_counts_earlier_runs_and_stops_cleanly(tiny: Path, tmp_path: Path) -> None:
    money = {"prices": Prices(0.0, 25_000.0), "max_tokens": 40}  # One unit a reply.
    with running(FaultServer()) as server:
        summary, ledger = run_job(vts_job(tiny, tmp_path, server.url, max_cost=10.5, **money))
        assert "spend cap" in summary.stopped and not summary.complete
        assert ledger.spent == pytest.approx(10.0) and not lines(tmp_path / "failed.jsonl")
        assert sum(t["usage"]["cost"] for t in lines(tmp_path / "traces.jsonl")) < 10.0  # Some was paid in vain.
        _, ledger = run_job(vts_job(tiny, tmp_path, server.url, max_cost=10.5, **money))
        assert ledger.spent_before == pytest.approx(10.0)
        free, _ = run_job(vts_job(tiny, tmp_path, server.url, **money))
    assert free.complete


def test_a_torn_line_is_cut_and_its_item_made_again(tiny: Path, tmp_path: Path) -> None:
    with running(FaultServer()) as server:
        run_job(vts_job(tiny, tmp_path, server.url))
        whole = files(tmp_path)
        (tmp_path / "traces.jsonl").write_bytes(whole["traces.jsonl"][:-50])
        summary, ledger = run_job(vts_job(tiny, tmp_path, server.url))
    assert summary.made == 1 and ledger.sent == 0  # Its replies were in the cache.
    assert files(tmp_path) == whole


def test_a_broken_line_other_settings_and_a_second_job_are_refused(tiny: Path, tmp_path: Path) -> None:
    with running(FaultServer()) as server:
        run_job(vts_job(tiny, tmp_path, server.url, {"limit": 2}))
        with pytest.raises(DataError, match=r"max_chars = 200, now it is 56|frames"):
            run_job(seed_job(tiny, tmp_path, server.url))
        settings = json.loads((tmp_path / "job.json").read_text())
        with JobFolder(tmp_path, settings), pytest.raises(DataError, match="another job"):
            run_job(vts_job(tiny, tmp_path, server.url))
        path = tmp_path / "traces.jsonl"
        path.write_bytes(path.read_bytes()[:100] + b"\n" + path.read_bytes())
        with pytest.raises(DataError, match=r"traces\.jsonl, line 1: not JSON"):
            run_job(vts_job(tiny, tmp_path, server.url))


def test_a_limit_grows_and_the_files_stay_in_order(tiny: Path, tmp_path: Path) -> None:
    with running(FaultServer()) as server:
        for limit in (3, 1, 7, None):
            run_job(vts_job(tiny, tmp_path, server.url, {"limit": limit}))
            found = [t["id"] for t in lines(tmp_path / "traces.jsonl")]
            assert found == all_ids(tiny)[: max(3, limit or 99)]


def test_an_estimate_counts_what_a_run_then_asks(tiny: Path, tmp_path: Path) -> None:
    with running(FaultServer()) as server:
        job = vts_job(tiny, tmp_path, server.url, prices=Prices(1.0, 2.0), max_tokens=50)
        before = estimate_job(job)
        assert not list(tmp_path.iterdir()) and not server.bodies
        _, ledger = run_job(job)
        after = estimate_job(job)
    assert before.requests == ledger.answered and before.items == len(all_ids(tiny))
    assert before.completion_tokens == 50 * before.requests and before.cost > 0
    assert (after.requests, after.there, after.cost) == (0, before.items, 0.0)
