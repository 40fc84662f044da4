"""A sample reads back as what was drawn, in every layout that can be written; only what can be used is drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from data_construction.check import check_dataset
from data_construction.layouts import write_layout
from data_construction.readers import open_dataset
from data_construction.sample import draw, read_population, write_annotations
from data_construction.sample.write import annotation_files, select_path, write_files
from rollout.errors import DataError
from tests.data_construction.test_reader_faults import numbered
from verl_ext.cli.main import app

Edit = Callable[[Path, Callable[[Any], object]], None]
TRAIN = "meta_expressions_train_.json"


def invoke(*args: Any, code: int) -> Any:
    result = CliRunner().invoke(app, ["data", "sample", *(str(a) for a in args)])
    assert result.exit_code == code, result.output
    return result


@pytest.mark.parametrize(("dataset", "split"), [("ref_ytvos", "train"), ("reasonvos", "test"), ("ref_sav", "valid")])
def test_a_sample_of_each_layout_reads_back_as_drawn(dataset: str, split: str, tmp_path: Path) -> None:
    root = tmp_path / dataset
    if dataset == "ref_ytvos":
        numbered(root, clips=3)  # Its masks are numbered by the expressions of the whole file.
    else:
        write_layout(dataset, root, clips=3)
    data = open_dataset(dataset, root, split)
    items = draw(read_population(data, ("kind",)).items, len(data) // 2, seed=1).items
    stanza = write_annotations(data, items, select_path(data))
    again = list(open_dataset(str(stanza), root, f"{split}_select", strict=True).samples())
    assert [(s.clip.name, s.expression.id) for s in again] == [(i.clip, i.expression_id) for i in items]
    assert again == [data.get(i.clip, i.expression_id) for i in items]


def test_a_list_of_expressions_keeps_its_places_and_a_file_without_videos_is_written(
    tiny: Path, tmp_path: Path
) -> None:
    meta = json.loads((tiny / "meta_expressions_valid_.json").read_text())["videos"]
    for video in meta.values():
        video["expressions"] = [*video["expressions"].values()]
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    stanza = tmp_path / "mine.yaml"
    stanza.write_text(
        "annotation_format: meta_expressions\nmask_format: rle_dict\nmasks: mask_dict.json\nkeys: {videos: ''}\n"
        f'frames: "JPEGImages/{{clip}}/{{frame}}.jpg"\nsplits: {{all: {{annotations: {tmp_path}/meta.json}}}}\n'
    )
    data = open_dataset(str(stanza), tiny, "all")
    items = read_population(data).items[1::3]
    sample = write_annotations(data, items, tmp_path / "some.json")
    assert set(json.loads((tmp_path / "some.json").read_text())) == {i.clip for i in items}
    again = list(open_dataset(str(sample), tiny, "all_select", strict=True).samples())
    assert again == [data.get(i.clip, i.expression_id) for i in items]


def test_a_sample_that_would_not_read_back_is_not_written(broken: Path, edit: Edit) -> None:
    data = open_dataset("revos", broken, "train")
    items = read_population(data).items
    edit(broken / TRAIN, lambda m: m["videos"]["train_00000"]["expressions"]["0"].update(exp="another"))
    with pytest.raises(DataError, match=r"clip train_00000: 1 of 2 drawn expressions would be read back"):
        annotation_files(data, items[:2], broken / "s.json")
    edit(broken / TRAIN, lambda m: m["videos"].pop("train_00000"))
    with pytest.raises(DataError, match="clip train_00000 was drawn and is not there any more"):
        annotation_files(data, items[:1], broken / "s.json")
    with pytest.raises(DataError, match=r"give --out a \.json"):
        annotation_files(data, items[:1], broken / "s.yaml")
    assert not list(broken.glob("s.*"))


def test_one_bad_expression_costs_its_clip_nothing(broken: Path, edit: Edit) -> None:
    edit(broken / TRAIN, lambda m: m["videos"]["train_00001"]["expressions"]["0"].pop("exp"))
    data = open_dataset("revos", broken, "train")
    for check in (True, False):
        population = read_population(data, check=check)
        assert len(population.items) == len(data) and population.set_aside == 1
        assert [p.item for p in population.problems] == ["expression 0"]


def test_what_cannot_be_used_is_not_drawn(broken: Path, edit: Edit) -> None:
    data = open_dataset("revos", broken, "train")
    sizes = {clip: len(data.expressions(clip)) for clip in data.clips()}
    (broken / "JPEGImages/train_00000/00005.jpg").unlink()
    lone = next(e for e in data.expressions("train_00001") if len(e.anno_ids) == 1)
    hit = sum(lone.anno_ids[0] in e.anno_ids for e in data.expressions("train_00001"))
    edit(broken / "mask_dict.json", lambda m: m[lone.anno_ids[0]].pop())
    data = open_dataset("revos", broken, "train")
    usable = len(data) - sizes["train_00000"] - hit
    said: list[tuple[int, int]] = []
    population = read_population(data, progress=lambda done, total, _: said.append((done, total)))
    assert len(population.items) == usable and population.set_aside == sizes["train_00000"] + hit
    assert {p.code for p in population.problems} == {"missing_frame", "mask_count"} and len(population.problems) == 2
    assert said == [(0, 3), (1, 3), (2, 3)]
    quick = read_population(data, check=False)
    assert len(quick.items) == len(data) and not quick.problems and not quick.set_aside
    run = ["revos", broken, "--ids", broken / "ids.jsonl"]
    told = invoke(*run, "--size", usable, code=1)
    assert f"{usable} of {usable} expressions" in told.output and "00005.jpg" in told.output
    assert f"{population.set_aside} more expressions are set aside" in told.output
    sample = open_dataset(str(broken / "meta_expressions_train_select.yaml"), broken, "train_select")
    assert len(list(sample.samples(frames="decode"))) == usable  # The first bad one would raise.
    assert "cannot draw" in invoke(*run, "--size", usable + 1, "--overwrite", code=2).stderr
    invoke(*run, "--size", usable + 1, "--no-check", "--overwrite", code=0)


def test_everything_asked_for_is_written_or_nothing(broken: Path, tmp_path: Path) -> None:
    run = ["revos", broken, "--size", 4]
    taken = broken / "meta_expressions_train_select.yaml"
    taken.write_text("mine")
    told = invoke(*run, "--ids", tmp_path / "ids.jsonl", code=2).stderr
    assert "already holds something else" in told and taken.read_text() == "mine"
    assert not (tmp_path / "ids.jsonl").exists() and not (broken / "meta_expressions_train_select.json").exists()
    assert (
        "give another file" in invoke(*run, "--ids", tmp_path / "a.yaml", "--out", tmp_path / "a.json", code=2).stderr
    )
    assert (
        "cannot be written" in invoke("timelens", layout(tmp_path), "--size", 1, "--ids", tmp_path / "i", code=2).stderr
    )
    assert not (tmp_path / "i").exists()


def layout(folder: Path) -> Path:
    write_layout("timelens", folder / "timelens", clips=1)
    return folder / "timelens"


def test_files_are_all_complete_before_the_first_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("old")
    plain = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.name.startswith(".b"):
            raise OSError(28, "No space left on device")
        return plain(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_files({tmp_path / "a": b"new", tmp_path / "b": b"new"}, overwrite=True)
    assert (tmp_path / "a").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_the_sample_says_how_much_it_is_and_the_check_compares(broken: Path, edit: Edit) -> None:
    data = open_dataset("revos", broken, "train")
    items = draw(read_population(data).items, 6, 0).items
    stanza = write_annotations(data, items, select_path(data))
    assert check_dataset(str(stanza), broken).ok
    edit(select_path(data), lambda m: m["videos"].pop(items[0].clip))
    problems = check_dataset(str(stanza), broken).problems
    assert {p.code for p in problems} == {"unexpected_count"} and len(problems) == 2
    assert f"the stanza expects {len({i.clip for i in items})}" in problems[0].what
