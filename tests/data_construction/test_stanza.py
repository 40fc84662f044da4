"""A stanza that is wrong says so with its path, before anything is read by it."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_construction.layouts import write_layout
from data_construction.readers import load_stanza, open_dataset
from rollout.errors import DataError

HEAD = 'annotation_format: meta_expressions\nannotations: meta.json\nframes: "F/{clip}/{frame}.jpg"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("splits: {a: [", "cannot be read as YAML"),
        ("splits: {a: {}}\nfps: '6'", "splits.a.fps: found '6'; wants a number"),
        ("splits: {a: {}}\nfps: true", "splits.a.fps: found True; wants a number"),
        ("splits: {a: {masks_required: 'false'}}", "splits.a.masks_required: found 'false'; wants true or false"),
        ("splits: {a: {select: 3}}", "splits.a.select: found 3; wants text"),
        ("splits: {a: {keys: text}}", "splits.a.keys: found 'text'; wants a mapping"),
        ("splits: {a: {keys: {text: 3}}}", "splits.a.keys.text: found 3; wants text"),
        ("splits: {a: train}", "splits.a: found 'train'; a split is a mapping"),
        ("splits: {a: []}", "splits.a: found no layout"),
        ("splits: {a: {frames: '{clp}/{frame}.jpg'}}", "splits.a.frames: '{clp}/{frame}.jpg' has a wrong place"),
        ("splits: {a: {frames: '{clip}/{frame.jpg'}}", "splits.a.frames"),
        ("splits: {a: {frames: [7]}}", "splits.a.frames: found (7,); wants patterns"),
        ("splits: {a: {mask_files: '{anno:03d}.png'}}", "splits.a.mask_files: '{anno:03d}.png' has a wrong place"),
        ("splits: {a: {expected: {videos: 3}}}", "splits.a.expected: found {'videos': 3}; wants some of clips"),
        ("splits: {a: {expected: {clips: many}}}", "splits.a.expected.clips: found 'many'; wants a whole number"),
        ("splits: {a: {}}\nname: 3", "name: found 3; wants text"),
        ("splits: {a: {}}\nsplits_are_sources: 1", "splits_are_sources: found 1; wants true or false"),
    ],
)
def test_wrong_values_are_named_with_path_and_key(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + text)
    with pytest.raises(DataError) as e:
        load_stanza(str(path))
    assert str(path) in str(e.value) and words in str(e.value)


def test_a_stanza_without_an_annotation_format_says_so(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD.partition("\n")[2] + "splits: {a: {}}")
    with pytest.raises(DataError, match=r"mine\.yaml: splits\.a: needs an 'annotation_format'"):
        load_stanza(str(path))


def test_what_is_right_stays_right(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + 'fps: 6\nsplits: {a: , b: {mask_files: "{index:06d}.png", masks_required: false}}\n')
    stanza = load_stanza(str(path))
    assert stanza.split("a").fps == 6.0 and isinstance(stanza.split("a").fps, float)
    assert stanza.split("b").mask_files == ("{index:06d}.png",) and not stanza.split("b").masks_required
    assert stanza.file == path and load_stanza("revos").file is None
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"mine\.yaml: cannot be read as YAML"):
        load_stanza(str(path))


def test_sources_may_share_clips_and_splits_may_not(tmp_path: Path) -> None:
    for dataset, split, other in (("rl_annotations", "mevis", "revos"), ("gcg", "grandf", "openpsg")):
        assert load_stanza(dataset).splits_are_sources and {split, other} <= set(load_stanza(dataset).splits)
    root = tmp_path / "traces"
    write_layout("vts_cot", root, clips=2)
    (root / "VTG-CoT/mevis.json").write_bytes((root / "VTG-CoT/revos.json").read_bytes())
    shared = [p for p in open_dataset("vts_cot", root, "mevis").validate("none") if p.code == "shared_clip"]
    assert shared == []
