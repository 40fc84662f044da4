"""A sample of a data set on disk: strata that are measured, files that every reader opens, bad data set aside."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_construction.layouts import write_layout
from data_construction.readers import Dataset, open_dataset
from data_construction.sample import draw, read_population, stratum_names, write_annotations, write_ids
from data_construction.sample.table import sample_table
from data_construction.sample.write import select_path
from rollout.errors import DataError
from tests.data_construction.trace_files import read

ALL = ("type", "objects", "single_multi", "kind", "clip_length", "mask_size")


@pytest.fixture
def train(broken: Path) -> Dataset:
    """A copy that may be written to."""
    return open_dataset("revos", broken, "train")


def test_the_population_is_every_expression_with_its_strata(synthetic: Path) -> None:
    dataset = open_dataset("revos", synthetic, "train")
    population = read_population(dataset, ALL)
    assert stratum_names() == list(ALL) and len(population.items) == len(dataset) and not population.problems
    for item in population.items[::7]:
        sample = dataset.get(item.clip, item.expression_id)
        kind, ids = sample.expression.kind, sample.expression.anno_ids
        type_, objects, several, label, length, size = item.key
        assert (type_ == "no target") == (objects == "0 objects") == (several == "none") == (not ids)
        assert label == kind and objects.startswith(f"{len(ids)} object")
        low, _, high = length.partition("..")
        assert int(low) <= sample.clip.num_frames <= int(high or low)
        assert sample.masklets is not None
        areas = sample.masklets.areas() / (sample.clip.height * sample.clip.width)
        low, _, high = size.partition("..")
        mean = float(areas[areas > 0].mean()) if areas.any() else 0.0
        assert float(low) * 0.999 <= mean <= float(high or low) * 1.001 or mean == 0
    assert 2 <= len({i.key[4] for i in population.items}) <= 3 and len({i.key[5] for i in population.items}) == 3
    targets = read_population(dataset, ("objects",), targets_only=True)
    assert ("0 objects",) not in {i.key for i in targets.items}


def test_the_written_sample_opens_as_a_split_and_is_the_drawn_one(train: Dataset, broken: Path) -> None:
    drawn = draw(read_population(train).items, 12, seed=3, per_clip=5)
    path = select_path(train)
    assert path == broken / "meta_expressions_train_select.json"
    stanza = write_annotations(train, drawn.items, path)
    assert stanza == broken / "meta_expressions_train_select.yaml"
    again = open_dataset(str(stanza), broken, "train_select", strict=True)
    assert {(c, e.id) for c in again.clips() for e in again.expressions(c)} == {
        (i.clip, i.expression_id) for i in drawn.items
    }
    for sample in again.samples():
        assert sample == train.get(sample.clip.name, sample.expression.id)
    whole = json.loads((broken / "meta_expressions_train_.json").read_text())
    part = json.loads(path.read_text())
    for clip, video in part["videos"].items():
        original = whole["videos"][clip]
        assert {k: v for k, v in video.items() if k != "expressions"} == {
            k: v for k, v in original.items() if k != "expressions"
        }
        assert video["expressions"].items() <= original["expressions"].items()


def test_writing_again_is_quiet_for_the_same_and_refused_for_another(train: Dataset, broken: Path) -> None:
    items = read_population(train).items
    path = select_path(train)
    write_annotations(train, draw(items, 8, 0).items, path)
    first = path.stat().st_mtime_ns
    write_annotations(train, draw(items, 8, 0).items, path)
    assert path.stat().st_mtime_ns == first
    with pytest.raises(DataError, match="already holds something else; add --overwrite"):
        write_annotations(train, draw(items, 8, 1).items, path)
    write_annotations(train, draw(items, 8, 1).items, path, overwrite=True)
    assert path.stat().st_mtime_ns > first and not list(broken.glob(".*partial"))


def test_a_sample_elsewhere_still_finds_the_frames(train: Dataset, broken: Path, tmp_path: Path) -> None:
    stanza = write_annotations(train, draw(read_population(train).items, 5, 0).items, tmp_path / "mine.json")
    again = open_dataset(str(stanza), broken, "train_select")
    assert len(list(again.samples())) == 5


def test_ids_say_where_each_expression_is(train: Dataset, tmp_path: Path) -> None:
    drawn = draw(read_population(train).items, 6, 0)
    write_ids(train, ("type", "objects"), drawn.items, tmp_path / "ids.jsonl", overwrite=False)
    lines = read(tmp_path / "ids.jsonl")
    assert [(d["clip"], d["expression_id"]) for d in lines] == [(i.clip, i.expression_id) for i in drawn.items]
    assert all(d["id"] == f"revos/train/{d['clip']}/{d['expression_id']}" for d in lines)
    assert lines[0]["strata"].keys() == {"type", "objects"}


def test_what_cannot_be_measured_is_named_and_left_out(broken: Path, edit: Callable[..., None]) -> None:
    clip = next(iter(json.loads((broken / "meta_expressions_train_.json").read_text())["videos"]))

    def lose(raw: Any) -> None:
        raw["videos"][clip]["expressions"]["0"]["anno_id"] = [999999]

    edit(broken / "meta_expressions_train_.json", lose)
    dataset = open_dataset("revos", broken, "train")
    population = read_population(dataset, ("mask_size",))
    assert len(population.items) == len(dataset) - 1
    assert clip in str(population.problems[0]) and "999999" in str(population.problems[0])
    table = sample_table(population, draw(population.items, 3, 0), None)
    assert "left out" in table and "999999" in table
    with pytest.raises(DataError, match="no stratum 'colour'; there are type, objects"):
        read_population(dataset, ("colour",))


def test_the_table_shows_before_and_after(synthetic: Path) -> None:
    population = read_population(open_dataset("revos", synthetic, "train"))
    drawn = draw(population.items, 60, 0, per_clip=4)
    table = sample_table(population, drawn, 4)
    rows = {tuple(cell.strip() for cell in line.split("│")[1:-1]) for line in table.splitlines() if "│" in line}
    counts = Counter(i.key for i in drawn.items)
    for key, n in drawn.before.items():
        row = next(r for r in rows if r[:2] == key)
        assert (int(row[2]), int(row[4])) == (n, counts[key]) and abs(float(row[6])) < 1
    assert f"60 of {len(population.items)} expressions from 2" in table and "(cap 4)" in table


def test_other_layouts_are_sampled_too(tmp_path: Path) -> None:
    write_layout("mevis", tmp_path / "mevis", clips=3)
    dataset = open_dataset("mevis", tmp_path / "mevis", "train")
    items = read_population(dataset).items
    stanza = write_annotations(dataset, draw(items, 2, 0).items, select_path(dataset))
    assert len(list(open_dataset(str(stanza), tmp_path / "mevis", "train_select").samples())) == 2
    write_layout("refcoco", tmp_path / "refcoco", clips=3)
    other = open_dataset("refcoco", tmp_path / "refcoco", "train")
    with pytest.raises(DataError, match="cannot be written; write ids with --ids"):
        write_annotations(other, read_population(other).items[:1], tmp_path / "x.json")
