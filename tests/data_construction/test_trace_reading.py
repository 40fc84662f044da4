"""Trace files as a stream: bad records in their place, torn ends, what a line says of how it was made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_construction.readers import open_dataset
from data_construction.traces import BadLine, Sources, Trace, count_items, json_list, read_items
from data_construction.traces.json_list import read_json_list
from data_construction.traces.shown import ImageSizes, agreed
from rollout.errors import DataError, RecipeError
from tests.data_construction.trace_files import boxed, planned, write


@pytest.fixture(scope="module")
def records(synthetic: Path) -> list[dict[str, Any]]:
    return [line["record"] for line in planned(synthetic)[:6]]


def kinds(path: Path) -> list[str]:
    return ["torn" if i.torn else "bad" for i in [*read_items(path)] if isinstance(i, BadLine)]


def test_bad_records_of_a_list_are_handed_out_in_their_place(records: list[dict[str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "vts_cot.json"
    broken = [{**records[0], "cot_trace": 3}, records[1], 7, {**records[2], "exp": "\ud83d"}, records[3]]
    path.write_text(json.dumps(broken, indent=2))
    found = list(read_items(path))
    assert [isinstance(i, Trace) for i in found] == [False, True, False, False, True]
    bad = [i for i in found if isinstance(i, BadLine)]
    assert [b.number for b in bad] == [0, 2, 3] and "record 0" in bad[0].what and "surrogate" in bad[2].what
    assert isinstance(found[1], Trace) and found[1].id == f"vts_cot/{records[1]['video_name']}/1"
    assert count_items(path) == 4  # Those with a name.


def test_a_list_that_is_cut_short_gives_what_it_holds(records: list[dict[str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "vts_cot.json"
    text = json.dumps(records)
    for end, number in ((-1, 5), (-40, 5), (len(json.dumps(records[:2])) + 30, 2)):
        path.write_text(text[:end])
        found = list(read_items(path))
        assert [isinstance(i, Trace) for i in found] == [True] * number + [False] and kinds(path) == ["torn"]
    for wrong in ("", "{}", '[{"id": "x"}]', "[3]", text[:50]):
        path.write_text(wrong)
        with pytest.raises(DataError, match=r"vts_cot\.json"):
            list(read_items(path))


def test_a_list_is_not_held_in_memory(records: list[dict[str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "vts_cot.json"
    path.write_text("[" + ",".join([json.dumps(records[0])] * 200) + ",{nonsense" + "x" * 10**6)
    seen: list[int] = []

    def counted(real: Iterator[Any]) -> Iterator[Any]:
        for n, value in enumerate(real):
            seen.append(n)
            yield value

    items = counted(read_json_list(path))
    for _ in range(3):
        next(items)
    assert len(seen) == 3
    with pytest.raises(DataError, match="item 200 is not JSON"):
        list(items)


def test_a_fault_in_the_middle_is_not_read_over_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, pieces = tmp_path / "a.json", 0
    path.write_text('[1, {"a": nonsense}, ' + "1," * 5000)
    monkeypatch.setattr(json_list, "CHUNK", 64)
    decode = json.JSONDecoder.raw_decode

    def counted(self: json.JSONDecoder, *args: Any) -> Any:
        nonlocal pieces
        pieces += 1
        return decode(self, *args)

    monkeypatch.setattr(json.JSONDecoder, "raw_decode", counted)
    with pytest.raises(DataError, match="item 1 is not JSON"):
        list(read_json_list(path))
    assert pieces < 6


def test_a_trace_says_how_its_frames_were_shown(synthetic: Path) -> None:
    line = {**boxed(synthetic)[0], "shown": {"side": 280, "fps": 2.0}}
    trace, old = Trace.from_dict(line, "line"), Trace.from_dict(boxed(synthetic)[0], "line")
    assert agreed(trace, "side", None, 560) == agreed(trace, "side", 280, 560) == 280
    assert (agreed(old, "side", None, 560), agreed(old, "side", 112, 560)) == (560, 112)
    with pytest.raises(RecipeError, match=rf"--side 560: trace {line['id']} was made with side 280"):
        agreed(trace, "side", 560, 560)
    assert ImageSizes(factor=28).of(trace).size("box", 480, 640) == (280, 280)
    plan = {**planned(synthetic)[0], "shown": {"low": 4, "spatial": 8, "keyframe": 16}}
    sizes = ImageSizes().of(Trace.from_dict(plan, "line"))
    assert (sizes.low, sizes.spatial, sizes.keyframe) == (4, 8, 16)
    for wrong in (
        {"side": 0},
        {"side": 10**9},
        {"side": 1.5},
        {"fps": 1e-300},
        {"fps": float("nan")},
        {"low": "x"},
        [1],
    ):
        with pytest.raises(DataError, match="malformed"):
            Trace.from_dict({**line, "shown": wrong}, "line")


def test_roots_are_given_once_and_may_hold_the_sign(synthetic: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a=b" / "c"
    folder.mkdir(parents=True)
    assert Sources.parse([str(folder)]).roots == {"": folder}
    assert Sources.parse([f"revos={folder}", str(synthetic)]).roots == {"revos": folder, "": synthetic}
    for twice in ([f"revos={folder}", f"revos={synthetic}"], [str(folder), str(synthetic)]):
        with pytest.raises(DataError, match="is given already"):
            Sources.parse(twice)
    with pytest.raises(DataError, match="no folder"):
        Sources.parse([f"revos={tmp_path / 'none'}"])


def test_lines_are_counted_as_they_lie(synthetic: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", planned(synthetic)[:5])
    assert count_items(path) == 5
    assert count_items(synthetic / "vts_cot_train.json") == len(open_dataset("revos", synthetic, "train"))
