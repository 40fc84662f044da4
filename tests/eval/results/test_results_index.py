"""Records are found by byte offset, whatever wrote the file, and read one at a time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.results.index import index_results, read_record
from eval.results.record import ResultRecord
from eval.results.results_file import ResultsFile, read_results
from rollout.errors import DataError
from tests.eval.clips import record, samples


@pytest.fixture
def written(tmp_path: Path) -> Path:
    with ResultsFile(tmp_path / "run" / "results.jsonl") as results:
        for sample in samples(tmp_path / "frames", clips=2):
            results.append(record(sample, thinking='é "quoted" \\ 漢字 \u2028 line'))
    return tmp_path / "run" / "results.jsonl"


def read_all(path: Path) -> list[ResultRecord]:
    with path.open("rb") as file:
        return [read_record(file, path, key, place) for key, place in index_results(path).items()]


def test_places_give_back_every_record(written: Path) -> None:
    assert read_all(written) == read_results(written)
    assert [place.number for place in index_results(written).values()] == [1, 2, 3, 4, 5, 6]


def test_lines_of_another_writer_are_found_too(written: Path, tmp_path: Path) -> None:
    records = [json.loads(line) for line in written.read_text().strip().split("\n")]
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(dict(sorted(r.items())), indent=None) + "\r\n" for r in records))
    assert read_all(other) == read_results(written)


def test_only_the_head_of_a_line_is_parsed(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [r.key for r in read_results(written)]
    monkeypatch.setattr(json, "loads", lambda *_: pytest.fail("parsed a whole line"))
    assert list(index_results(written)) == expected


def test_clip_names_with_quotes_and_escapes(tmp_path: Path) -> None:
    sample = record(samples(tmp_path / "frames", clips=1)[0]).to_dict()
    path = tmp_path / "r.jsonl"
    for name in ('a"b,"expression_id" "9', "a\u00e9b", "x" * 3000):
        path.write_text(json.dumps({**sample, "clip": name}, separators=(",", ":")) + "\n")
        assert list(index_results(path)) == [(name, "0")]


def test_a_file_that_changes_meanwhile_is_noticed(written: Path) -> None:
    places = index_results(written)
    lines = written.read_bytes().splitlines(keepends=True)
    written.write_bytes(b"".join(reversed(lines)))
    key, place = next(iter(places.items()))
    with written.open("rb") as file, pytest.raises(DataError, match="line 1"):
        read_record(file, written, key, place)


def test_torn_line_duplicates_and_tricks(written: Path) -> None:
    text = written.read_text()
    third = text.split("\n")[2] + "\n"
    written.write_text(text[:-5])
    assert len(index_results(written)) == 5
    written.write_text(text + third)
    with pytest.raises(DataError, match="line 7: clip0/2 is already on line 3"):
        index_results(written)
    written.write_text(text.replace('"clip":"clip1"', '"clip":"../clip1"', 1))
    with pytest.raises(DataError, match=r"line 4: clip '\.\./clip1' is not a plain name"):
        index_results(written)
    with pytest.raises(DataError, match="no results file"):
        index_results(written.parent / "none.jsonl")
