"""The results file survives a kill, refuses what it should, and gives back what was written."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

from eval.results.record import ResultRecord, TurnRecord
from eval.results.record_types import OPTIONAL, RECORD, TURN
from eval.results.results_file import ResultsFile, read_results
from rollout.errors import DataError
from tests.eval.clips import record, samples


@pytest.fixture
def records(tmp_path: Path) -> list[ResultRecord]:
    return [record(sample) for sample in samples(tmp_path / "frames", clips=2)]


@pytest.fixture
def written(tmp_path: Path, records: list[ResultRecord]) -> Path:
    path = tmp_path / "run" / "results.jsonl"
    with ResultsFile(path) as results:
        for one in records[:3]:
            results.append(one)
    return path


def test_round_trip(written: Path, records: list[ResultRecord]) -> None:
    assert read_results(written) == records[:3]
    assert records[0].turns[0].action is not None and records[0].chosen == 5


def test_byte_counts_are_written_as_text(tmp_path: Path, records: list[ResultRecord]) -> None:
    as_bytes = tuple(r and {**r, "counts": r["counts"].encode()} for r in records[0].prediction)
    with ResultsFile(tmp_path / "r.jsonl") as results:
        results.append(replace(records[0], prediction=as_bytes))
    assert read_results(tmp_path / "r.jsonl") == records[:1]


@pytest.mark.parametrize("cut", [1, 40, 700])
def test_torn_last_line_is_dropped_and_the_run_goes_on(written: Path, records: list[ResultRecord], cut: int) -> None:
    written.write_bytes(written.read_bytes()[:-cut])
    assert read_results(written) == records[:2]
    with ResultsFile(written) as results:
        assert results.dropped_bytes > 0
        assert results.done == {r.key for r in records[:2]} and records[2].key not in results
        results.append(records[2])
    assert read_results(written) == records[:3]


def test_only_line_torn(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"clip": "a')
    with ResultsFile(path) as results:
        assert len(results) == 0
    assert path.read_bytes() == b""


def test_duplicates_are_refused_on_writing_and_reading(written: Path, records: list[ResultRecord]) -> None:
    with ResultsFile(written) as results, pytest.raises(DataError, match="clip0/1 is already"):
        results.append(records[1])
    lines = written.read_text().splitlines(keepends=True)
    written.write_text("".join([*lines, lines[0]]))
    with pytest.raises(DataError, match="line 4: clip0/0 is already on line 1"):
        read_results(written)


def test_second_writer_is_refused(written: Path) -> None:
    with ResultsFile(written), pytest.raises(DataError, match="another job"):
        ResultsFile(written)
    with ResultsFile(written) as results:
        assert len(results) == 3


def test_broken_line_in_the_middle_is_an_error_and_leaves_the_file(written: Path) -> None:
    lines = written.read_text().splitlines(keepends=True)
    written.write_text(lines[0] + "{]\n" + lines[1])
    before = written.read_bytes()
    for act in (read_results, ResultsFile):
        with pytest.raises(DataError, match="line 2: not JSON"):
            act(written)
    assert written.read_bytes() == before


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/x", "a/../b", "a//b", ".", "", "a\\b", "C:x", "a\0b", "a\nb", "a/ ", "x/"]
)
def test_path_tricks_are_refused(tmp_path: Path, records: list[ResultRecord], name: str) -> None:
    with ResultsFile(tmp_path / "r.jsonl") as results, pytest.raises(DataError, match="not a plain name"):
        results.append(replace(records[0], clip=name))
    assert (tmp_path / "r.jsonl").read_bytes() == b""
    line = json.dumps({**records[0].to_dict(), "clip": name}) + "\n"
    (tmp_path / "r.jsonl").write_text(line)
    with pytest.raises(DataError, match="not a plain name"):
        read_results(tmp_path / "r.jsonl")


def test_nested_clip_names_are_ordinary(tmp_path: Path, records: list[ResultRecord]) -> None:
    with ResultsFile(tmp_path / "r.jsonl") as results:
        results.append(replace(records[0], clip="LVVIS/train/00012"))
    with pytest.raises(DataError, match="expression id"):
        replace(records[0], expression_id="a/b").check("here")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prediction": []}, "10 frames but 0 masks"),
        ({"extra": 1}, "unknown \\['extra'\\]"),
        ({"stop": "bored"}, "bored"),
        ({"turns": [{"text": "x"}]}, "turn 0"),
        ({"num_frames": "10"}, "num_frames"),
        ({"clip": 3}, "clip"),
        ({"turns": 4}, "'turns' must be a list, found 4"),
        ({"text": None}, "line 1: 'text' must be str, found None"),
        ({"type_id": "1"}, "'type_id' must be int or null"),
        ({"height": True}, "'height' must be int, found True"),
        ({"tokens": 1.5}, "'tokens' must be int"),
        ({"spatial_frames": [0.5]}, "'spatial_frames' must be a list of int"),
        ({"prediction": "none"}, "'prediction' must be a list of RLE or null"),
        ({"rewards": {"total": "4"}}, "'rewards' must be numbers by name or null"),
        ({"stop": ["answered"]}, "'stop' must be str"),
    ],
)
def test_wrong_records_are_named(
    tmp_path: Path, records: list[ResultRecord], change: dict[str, object], says: str
) -> None:
    (tmp_path / "r.jsonl").write_text(json.dumps({**records[0].to_dict(), **change}) + "\n")
    with pytest.raises(DataError, match=says):
        read_results(tmp_path / "r.jsonl")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"text": None}, "line 1, turn 1: 'text' must be str"),
        ({"keyframe": 0.5}, "turn 1: 'keyframe' must be int, found 0.5"),
        ({"frames_shown": None}, "turn 1: 'frames_shown' must be a list of int"),
        ({"action": 3}, "turn 1: 'action' must be str or null"),
        ({"action": "shrug"}, "line 1: 'shrug' is not a valid Action"),
        ({"grounding": {"start": "a", "end": 2, "keyframe": 1}}, "turn 1: 'grounding' must be an object of int start"),
        ({"grounding": {"start": 1, "end": 2}}, "turn 1: 'grounding' must be"),
    ],
)
def test_wrong_turns_are_named(
    tmp_path: Path, records: list[ResultRecord], change: dict[str, object], says: str
) -> None:
    line = json.loads(json.dumps(records[0].to_dict()))
    line["turns"][1] |= change
    (tmp_path / "r.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(DataError, match=says):
        read_results(tmp_path / "r.jsonl")


def test_every_field_has_a_type() -> None:
    assert {*RECORD, *OPTIONAL} == {f.name for f in fields(ResultRecord)}
    assert set(TURN) == {f.name for f in fields(TurnRecord)}


def test_objects_of_a_prediction_are_kept_and_older_files_have_none(
    tmp_path: Path, records: list[ResultRecord]
) -> None:
    one = records[0]
    assert "objects" not in one.to_dict() and one.tracks == (one.prediction,)
    several = replace(one, objects=(one.prediction, (None,) * one.num_frames))
    nothing = replace(one, expression_id="none", objects=())
    with ResultsFile(tmp_path / "r.jsonl") as results:
        results.append(several)
        results.append(nothing)
    back = read_results(tmp_path / "r.jsonl")
    assert back == [several, nothing] and back[0].tracks == several.objects and back[1].tracks == ()
    for objects, says in (
        ([[None]], "10 frames but 1 masks of object 0"),
        ([["x"]], "'objects' must be a list of masks by object or null"),
        ({}, "'objects' must be a list of masks by object or null"),
    ):
        (tmp_path / "bad.jsonl").write_text(json.dumps({**one.to_dict(), "objects": objects}) + "\n")
        with pytest.raises(DataError, match=says):
            read_results(tmp_path / "bad.jsonl")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no results file"):
        read_results(tmp_path / "none.jsonl")
