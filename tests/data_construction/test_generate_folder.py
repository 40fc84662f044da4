"""What a job's folder promises: money counted, names of any kind, a false start that binds nobody."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_construction.generate import JobFolder, run_job
from data_construction.generate.items import base_id, item_id, split_id
from data_construction.readers import open_dataset
from data_construction.vlm import EndpointError, Prices
from rollout.errors import DataError, RecipeError
from rollout.types import Expression
from tests.data_construction.cot_jobs import lines, seed_job, vts_job
from tests.data_construction.fault_server import FaultServer, running

Edit = Callable[[Path, Callable[[Any], object]], None]
A_UNIT_EACH = {"prices": Prices(0.0, 25_000.0), "max_tokens": 40}


def train_file(root: Path) -> Path:
    name = open_dataset("revos", root, "train").files.annotations
    assert name is not None
    return root / name


def test_what_was_paid_is_counted_whatever_becomes_of_the_results(tiny: Path, tmp_path: Path) -> None:
    with running(FaultServer(lambda n: "prose" if n == 0 else None)) as server:  # Every second is paid in vain.
        _, first = run_job(seed_job(tiny, tmp_path, server.url, {"limit": 3}, **A_UNIT_EACH))
        paid = sum(server.bodies.values())
        assert first.spent == paid == 6 and len(lines(tmp_path / "spent.jsonl")) == paid
        for name in ("traces.jsonl", "failed.jsonl"):
            (tmp_path / name).unlink()
        with (tmp_path / "spent.jsonl").open("a") as file:
            file.write('{"prompt_tokens": 1')  # Torn by a kill.
        _, second = run_job(seed_job(tiny, tmp_path, server.url, {"limit": 3}, **A_UNIT_EACH))
    assert second.spent_before == paid and second.spent == sum(server.bodies.values())
    assert second.cached == 3 and second.usage.cost == second.spent - paid  # The cache costs nothing.


def test_tokens_of_a_run_without_prices_are_priced_later(tiny: Path, tmp_path: Path) -> None:
    with running(FaultServer()) as server:
        run_job(seed_job(tiny, tmp_path, server.url, {"limit": 2}))
        _, ledger = run_job(seed_job(tiny, tmp_path, server.url, {"limit": 2}, **A_UNIT_EACH))
    assert ledger.spent_before == 2.0


@pytest.mark.parametrize(
    ("clip", "expression", "id"),
    [
        ("a", "3", "revos/train/a/3"),
        ("a#2", "3", "revos/train/a#2/3"),
        ("a#2/b #9 c", "x#y", "revos/train/a#2/b #9 c/x#y"),
        ("a", "x#2", "revos/train/a/x%232"),
    ],
)
def test_an_attempt_is_told_from_a_name_with_its_mark(tiny: Path, clip: str, expression: str, id: str) -> None:
    found = item_id(open_dataset("revos", tiny, "train"), clip, Expression(expression, "the target"))
    assert found == id and split_id(found) == (found, 1)
    assert split_id(f"{found}#12") == (found, 12) and base_id(f"{found}#12") == found


def test_clips_with_the_mark_in_their_names_are_made_in_order(broken: Path, edit: Edit, tmp_path: Path) -> None:
    def rename(raw: Any) -> None:
        raw["videos"] = {f"{clip}#1": entry for clip, entry in raw["videos"].items()}

    edit(train_file(broken), rename)
    for folder in list((broken / "JPEGImages").iterdir()):
        folder.rename(folder.with_name(f"{folder.name}#1"))
    data = open_dataset("revos", broken, "train")
    with running(FaultServer()) as server:
        summary, _ = run_job(vts_job(broken, tmp_path / "out", server.url))
    wanted = [(c, e.id) for c in data.clips() for e in data.expressions(c)]
    assert (
        summary.complete and [(t["clip"], t["expression_id"]) for t in lines(tmp_path / "out/traces.jsonl")] == wanted
    )
    assert {t["attempt"] for t in lines(tmp_path / "out/traces.jsonl")} == {1}
    assert len(json.loads((tmp_path / "out/vts_cot.json").read_text())) == len(wanted)


def test_a_start_that_made_nothing_binds_nobody(tiny: Path, tmp_path: Path) -> None:
    with running(FaultServer(lambda _: "404")) as server:
        with pytest.raises(EndpointError, match="no such model"):
            run_job(seed_job(tiny, tmp_path, server.url, {"limit": 2}))
        server.faults = lambda _: None
        summary, _ = run_job(vts_job(tiny, tmp_path, server.url, {"limit": 2}))
        assert summary.complete
        with pytest.raises(DataError, match="use the same settings"):
            run_job(seed_job(tiny, tmp_path, server.url, {"limit": 2}))
    with JobFolder(tmp_path / "new", {"side": 1}), pytest.raises(DataError, match="another job"):
        JobFolder(tmp_path / "new", {"side": 2})


@pytest.mark.parametrize("wrong", [{"side": 57}, {"fps": 0.0}, {"fps": -1.0}, {"frames": 1}])
def test_settings_that_no_item_could_be_made_with_are_refused_before_the_start(wrong: dict[str, Any]) -> None:
    from data_construction.cot.seed import SeedSettings

    with pytest.raises(RecipeError, match=next(iter(wrong))):
        SeedSettings(**wrong)


def test_a_job_that_cannot_go_on_keeps_what_was_in_flight(tiny: Path, tmp_path: Path) -> None:
    """The fourth request is refused at once; the three before it take their time and are paid for."""
    with running(FaultServer(delay=0.3)) as server:
        server.faults = lambda _: "401" if len(server.bodies) >= 3 else None
        with pytest.raises(EndpointError, match="key is not accepted"):
            run_job(seed_job(tiny, tmp_path, server.url, {"limit": 12}))
    assert len(lines(tmp_path / "traces.jsonl")) == 3
    assert json.loads((tmp_path / "summary.json").read_text())["stopped"]


def test_half_of_a_surrogate_pair_sets_its_item_aside(broken: Path, edit: Edit, tmp_path: Path) -> None:
    clip = open_dataset("revos", broken, "train").clips()[0]
    first = open_dataset("revos", broken, "train").expressions(clip)[0]

    def damage(raw: Any) -> None:
        raw["videos"][clip]["expressions"][first.id]["exp"] = "the \ud83d circle"

    edit(train_file(broken), damage)
    with running(FaultServer()) as server:
        summary, _ = run_job(vts_job(broken, tmp_path / "out", server.url, {"limit": 4}))
    assert summary.made == 3 and summary.set_aside.total() == 1
    (failed,) = lines(tmp_path / "out" / "failed.jsonl")
    assert failed["expression_id"] == first.id and "surrogate" in failed["reason"]
