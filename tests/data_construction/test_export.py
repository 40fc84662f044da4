"""Exports load where they are meant to, hold as many pictures as placeholders, and come back to equal traces."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_construction.export import export, format_names, import_traces, read_records
from data_construction.export.formats import ExportReport
from data_construction.export.lengths import MARKS_A_MESSAGE, MARKS_AN_IMAGE, Longest
from data_construction.json_list_writer import JsonListWriter
from data_construction.readers import open_dataset, read_vts_cot
from data_construction.traces import Sources
from data_construction.traces.json_list import read_json_list
from rollout.environments.keyframe_exploration import ExplorationSettings, KeyframeExploration
from rollout.errors import DataError
from tests.data_construction.trace_files import Line, boxed, planned, read, write


@pytest.fixture(scope="module")
def lines(synthetic: Path) -> list[Line]:
    found = planned(synthetic)[:12] + boxed(synthetic, "test")[:6]
    found[0]["note"] = {"hostile": 'quotes " and \n lines <image> é 漢字 \U0001f3a5', "empty": {}, "float": 0.1}
    return found


@pytest.fixture
def source(lines: list[Line], tmp_path: Path) -> Path:
    return write(tmp_path / "verified.jsonl", lines)


def run(source: Path, out: Path, root: Path, to: str, **rest: Any) -> ExportReport:
    return export(source, out, Sources.parse([str(root)]), to, **rest)


def expected_frames(line: Line) -> int:
    return sum(c["value"].count("<image>") for c in line["record"]["conversations"])


@pytest.mark.parametrize("to", ["verl", "sharegpt"])
def test_there_and_back_is_the_same(to: str, source: Path, lines: list[Line], synthetic: Path, tmp_path: Path) -> None:
    report = run(source, tmp_path / "out", synthetic, to)
    assert report.written == len(lines) and not report.set_aside
    back = tmp_path / "back.jsonl"
    assert import_traces(report.files[0], back) == len(lines)
    assert read(back) == lines
    order = [list(d) for d in read(back)], [list(d["record"]) for d in read(back)]
    assert order == ([list(d) for d in lines], [list(d["record"]) for d in lines])


def test_verl_columns_and_pictures(source: Path, lines: list[Line], synthetic: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    (file,) = run(source, tmp_path / "out", synthetic, "verl", name="cold_start").files
    assert file.name == "cold_start.parquet"
    rows = pq.read_table(file).to_pylist()
    for row, line in zip(rows, lines, strict=True):
        assert [m["role"] for m in row["messages"]][:3] == ["system", "user", "assistant"]
        assert [m["content"] for m in row["messages"]] == [c["value"] for c in line["record"]["conversations"]]
        assert len(row["images"]) == expected_frames(line)
        assert (row["id"], row["method"]) == (line["id"], line["method"])
        assert all(Path(i["image"]).is_file() and Path(i["image"]).is_absolute() for i in row["images"])
    box = rows[-1]["images"][0]
    assert (box["resized_height"], box["resized_width"]) == (560, 560)
    assert [Path(i["image"]).stem for i in rows[-1]["images"]] == [f"{f:05d}" for f in lines[-1]["record"]["frames"]]


def test_the_pictures_are_those_of_the_training_environment(lines: list[Line], synthetic: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    dataset = open_dataset("revos", synthetic, "valid")
    mine = [d for d in lines if d["method"] == "videoseg_o3"]
    (file,) = run(write(tmp_path / "t.jsonl", mine), tmp_path / "out", synthetic, "verl").files
    for row, line in zip(pq.read_table(file).to_pylist(), mine, strict=True):
        record = next(r for r in read_records(file) if r.to_dict() == line["record"])
        sample = dataset.get(line["clip"], line["expression_id"])
        environment = KeyframeExploration(
            sample, ExplorationSettings(), spatial_frames=record.sample_frame_indice, trace=record.selections
        )
        shown, messages = [], environment.begin()
        for reply in record.replies:
            assert isinstance(messages, list)
            shown += [(p.frame, p.height, p.width) for m in messages for p in m.parts if hasattr(p, "frame")]
            messages = environment.step(reply)
        pictures = [(int(Path(i["image"]).stem), i["resized_height"], i["resized_width"]) for i in row["images"]]
        assert pictures == shown


def test_sharegpt_says_what_llama_factory_needs(
    source: Path, lines: list[Line], synthetic: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "dataset_info.json").write_text('{"other": {"file_name": "other.json"}}')
    file, info = run(source, out, synthetic, "sharegpt", name="seed").files
    known = json.loads(info.read_text())
    entry = known["seed"]
    assert known["other"] == {"file_name": "other.json"}
    assert entry["file_name"] == file.name == "seed.json" and entry["formatting"] == "sharegpt"
    tags, columns = entry["tags"], entry["columns"]
    for item in json.loads(file.read_text()):
        turns = item[columns["messages"]]
        assert turns[0][tags["role_tag"]] == tags["system_tag"]
        asked, said = turns[1::2], turns[2::2]
        assert {t[tags["role_tag"]] for t in asked} == {tags["user_tag"]}
        assert {t[tags["role_tag"]] for t in said} == {tags["assistant_tag"]} and len(asked) == len(said)
        assert sum(t[tags["content_tag"]].count("<image>") for t in turns) == len(item[columns["images"]])
        for name in item[columns["images"]]:
            height, width = map(int, Path(name).stem.rpartition("_")[2].split("x"))
            with Image.open(out / name) as image:
                assert image.size == (width, height)
    assert Path(name).parts[0] == "images" and (height, width) == (560, 560)


@pytest.mark.parametrize(("to", "images"), [("verl", "link"), ("verl", "embed"), ("sharegpt", "copy")])
def test_hugging_face_datasets_loads_it(to: str, images: Any, source: Path, lines: list[Line], synthetic: Path) -> None:
    datasets = pytest.importorskip("datasets")
    out = source.parent / "out"
    file = run(source, out, synthetic, to, images=images).files[0]
    kind = "parquet" if to == "verl" else "json"
    loaded = datasets.load_dataset(kind, data_files=str(file), split="train", cache_dir=str(out / "cache"))
    assert len(loaded) == len(lines)
    turns = loaded[1]["messages" if to == "verl" else "conversations"]
    assert [t["content" if to == "verl" else "value"] for t in turns] == [
        c["value"] for c in lines[1]["record"]["conversations"]
    ]
    assert len(loaded[1]["images"]) == expected_frames(lines[1])
    if images == "embed":
        assert loaded[1]["images"][0]["bytes"][:3] == b"\xff\xd8\xff"


def test_training_reads_every_export(source: Path, lines: list[Line], synthetic: Path, tmp_path: Path) -> None:
    parquet = run(source, tmp_path / "a", synthetic, "verl").files[0]
    released = run(source, tmp_path / "b", synthetic, "vts_cot").files
    records = [r.to_dict() for r in read_records(source)]
    assert [r.to_dict() for r in read_records(parquet)] == records
    mine = [d["record"] for d in lines if d["method"] == "videoseg_o3"]
    assert records[: len(mine)] == mine
    again = read_vts_cot(released[0])
    assert [r.to_dict() for r in again][: len(mine)] == [{k: d[k] for k in d if k != "kind"} for d in mine]
    assert again[-1].sample_frame_indice == tuple(lines[-1]["record"]["frames"]) and len(again[-1].replies) == 1
    annotations = json.loads(released[1].read_text())
    assert [a[0]["exp"] for a in annotations] == [d["exp"] for d in lines]
    assert [a[0] for a in annotations][: len(mine)] == [d["rl_annotation"] for d in lines[: len(mine)]]


def test_an_export_for_llama_factory_says_how_long_its_longest_example_is(synthetic: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "verified.jsonl", planned(synthetic)[:12])
    (note,) = run(source, tmp_path / "out", synthetic, "sharegpt").notes
    items = list(read_json_list(tmp_path / "out/train.json"))
    pixels = [[Image.open(tmp_path / "out" / i).size for i in item["images"]] for item in items]
    plain, enlarged = (max(sum(max(w * h, least) // 32**2 for w, h in one) for one in pixels) for least in (0, 65536))
    said = [int(n) for n in re.findall(r"(\d+) tokens", note)]
    for found, images in zip(said, (plain, enlarged), strict=True):
        assert images < found < images + 1000  # and some hundred of text
    assert "set cutoff_len: " in note and "256 x 256 pixels" in note and "image_min_pixels" in note
    assert run(source, tmp_path / "verl", synthetic, "verl").notes == []


@pytest.mark.parametrize(("factor", "plain", "enlarged"), [(32, 16, 64), (28, 25, 25)])
def test_small_frames_cost_what_the_model_folder_says(factor: int, plain: int, enlarged: int) -> None:
    longest = Longest(factor)
    longest.add([("human", "<image>")], [(128, 128)])
    text = MARKS_A_MESSAGE + MARKS_AN_IMAGE
    assert (longest.tokens, longest.enlarged) == (plain + text, enlarged + text)
    assert ("as it is shipped" in longest.words()) == (plain != enlarged)


def test_what_cannot_be_exported_is_named_and_the_rest_is_written(
    lines: list[Line], synthetic: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(synthetic, tmp_path / "data"))
    gone = next((root / "JPEGImages" / lines[-1]["clip"]).glob("*.jpg"), None) or next(root.rglob("*.jpg"))
    bad = [{**lines[0], "clip": "nowhere"}, {**lines[1], "status": "rejected"}, *lines[2:]]
    bad[2] = json.loads(json.dumps(lines[2]))
    bad[2]["record"]["conversations"][1]["value"] += "<image>" * 99
    frame = lines[-1]["record"]["frames"][0]
    gone = next(p for p in root.rglob(f"{frame:05d}.jpg") if lines[-1]["clip"] in str(p))
    gone.unlink()
    source = write(tmp_path / "t.jsonl", bad)
    with source.open("a") as file:
        file.write('{"id": "half')
    report = run(source, tmp_path / "out", root, "verl")
    said = " ".join(report.set_aside)
    assert "'nowhere'" in said and str(gone) in said and "<image>" in said and lines[-1]["clip"] in said
    assert report.rejected == 1 and report.written == len(lines) - 2 - len(report.set_aside) + 1
    assert f"line {len(lines) + 1}: torn" in report.torn
    with pytest.raises(DataError, match="no trace could be exported"):
        run(write(tmp_path / "r.jsonl", [bad[0]]), tmp_path / "none", root, "verl")
    assert not list((tmp_path / "none").iterdir())


def test_wrong_input_is_named(source: Path, synthetic: Path, tmp_path: Path) -> None:
    assert format_names() == ["sharegpt", "verl", "vts_cot"]
    with pytest.raises(DataError, match="no export format 'arrow'; there are sharegpt, verl, vts_cot"):
        run(source, tmp_path / "out", synthetic, "arrow")
    with pytest.raises(DataError, match="paths"):
        run(source, tmp_path / "out", synthetic, "sharegpt", images="embed")
    foreign = tmp_path / "foreign.json"
    foreign.write_text('[{"conversations": [{"from": "human", "value": "hi"}]}]')
    with pytest.raises(DataError, match=r"foreign.json, item 0: column 'trace'"):
        import_traces(foreign, tmp_path / "x.jsonl")
    foreign.write_text('[{"conversations": [{"from": "tool", "value": "hi"}]}]')
    with pytest.raises(DataError, match="role 'tool'"):
        import_traces(foreign, tmp_path / "x.jsonl")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not at all")
    with pytest.raises(DataError, match=r"bad.parquet: cannot be read as parquet"):
        import_traces(tmp_path / "bad.parquet", tmp_path / "x.jsonl")
    assert not (tmp_path / "x.jsonl").exists()


def test_a_json_list_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [1, {"a": "]},[" * 9}, [], "é\n", 123456789, None, {"b": [[]]}]
    writer = JsonListWriter(tmp_path / "a.json")
    for item in items:
        writer.add(item)
    whole = writer.finish().read_text()
    for chunk in (1, 2, 7, 4096):
        monkeypatch.setattr("data_construction.traces.json_list.CHUNK", chunk)
        for text in (whole, json.dumps(items, indent=3), json.dumps(items)):
            (tmp_path / "b.json").write_text(text)
            assert list(read_json_list(tmp_path / "b.json")) == items
        for text in (whole[:-3], whole[:30], "{}", "[1 2]"):
            (tmp_path / "b.json").write_text(text)
            with pytest.raises(DataError, match=r"b\.json"):
                list(read_json_list(tmp_path / "b.json"))
