"""Large mask files are read by parts, and say the same as when read whole."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from data_construction.layouts import write_layout
from data_construction.readers import indexed_json, open_dataset
from data_construction.readers.indexed_json import IndexedJson, open_json
from rollout.errors import DataError

RLES: dict[str, Any] = {
    "0": [None, {"size": [4, 5], "counts": "]]\\[{0o"}, {"size": [4, 5], "counts": '"'.replace('"', "o]")}],
    "1": [],
    "17": [{"counts": [3, 17], "size": [4, 5]}, {"size": [4, 5], "counts": "P1"}],
    "a b": [{"size": [4, 5], "counts": [3, 17]}, None, None],
    "clip/x": {"masks_rle": [None, {"size": [1, 2], "counts": "11"}]},
}


@pytest.mark.parametrize("style", [{}, {"indent": 1}, {"separators": (",", ":")}])
def test_values_are_those_of_the_whole_file(style: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "masks.json"
    path.write_text(json.dumps(RLES, **style))
    found = IndexedJson(path)
    assert list(found) == list(RLES) and len(found) == 5 and dict(found) == RLES
    assert "17" in found and "18" not in found and found.get("18") is None


@pytest.mark.parametrize("style", [{}, {"indent": 1}, {"separators": (",", ":")}])
@pytest.mark.parametrize("first", [[1], None, 4.5, "text", {"size": [1, 2], "counts": "P1"}])
def test_values_of_any_kind_leave_the_next_key_alone(first: Any, style: dict[str, Any], tmp_path: Path) -> None:
    value = {"0": first, "1": None, "2": [3], "é": -5, 'quo"te': "s", "3": {"size": [1, 1]}, "4": True, "5": first}
    path = tmp_path / "masks.json"
    path.write_text(json.dumps(value, **style))
    found = IndexedJson(path)
    for key in ("2", "5", "1", "é", 'quo"te'):  # Before anything else has been asked for.
        assert key in found and found.get(key) == value[key]
    assert dict(found) == value and found.repeated() == []


def test_keys_that_stand_twice_are_known_and_those_inside_of_values_are_not_meant(tmp_path: Path) -> None:
    path = tmp_path / "masks.json"
    for text, twice in (
        ('{"0": [1], "1": null, "0": [2]}', ["0"]),
        ('{"a": {"x": 1, "y": 2, "z": 3}, "b": {"x": 1, "y": 2, "z": 3}}', []),
        ('{"a": {"x": 1, "y": 2, "z": 3}, "b": [1], "a": {"x": 1, "y": 2, "z": 3}}', ["a"]),
        ("{ }", []),
    ):
        path.write_text(text)
        assert IndexedJson(path).repeated() == twice
        assert dict(IndexedJson(path)) == json.loads(text)


@pytest.mark.parametrize("value", [{"0": [1], "1": None, "2": [3]}, {"0": [{"deep": [1], "er": [2]}], "1": [3]}])
def test_a_file_of_another_kind_is_read_whole(value: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "masks.json"
    path.write_text(json.dumps(value))
    found = IndexedJson(path)
    assert found["0"] == value["0"] and dict(found) == value


def test_cut_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "masks.json"
    text = json.dumps(RLES)
    for wrong in (text[: len(text) // 2], text[:-1], "[1, 2]", "{}x", "not json"):
        path.write_text(wrong)
        with pytest.raises(DataError, match=r"masks\.json"):
            dict(IndexedJson(path))


def test_data_sets_read_large_files_by_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_layout("revos", tmp_path / "revos", clips=2)
    whole = open_dataset("revos", tmp_path / "revos", "train")
    wanted, seen = list(whole.samples()), whole.foreground("train_00001")
    monkeypatch.setattr(indexed_json, "INDEXED_FROM", 100)
    parts = open_dataset("revos", tmp_path / "revos", "train", strict=True)
    assert list(parts.samples()) == wanted and parts.foreground("train_00001") == seen
    found = open_json(tmp_path / "revos/mask_dict.json")
    assert pickle.loads(pickle.dumps(parts)).get("train_00001", "0") == parts.get("train_00001", "0")
    assert isinstance(found, IndexedJson) and found is open_json(tmp_path / "revos/mask_dict.json")
