"""Every data set is read from its generated layout exactly as it was drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from data_construction.layouts import SPLITS, DrawnClip, draw_clips, layout_names, write_layout
from data_construction.layouts.image_sets import gcg_caption, visible_objects
from data_construction.layouts.own_formats import ACTIONS, QUESTION_TYPES, action_window
from data_construction.layouts.referring_video import LONG_RVOS_TYPES, REASONVOS_SOURCES
from data_construction.layouts.training_sets import FPS
from data_construction.layouts.writing import one_object, shown_frame
from data_construction.readers import dataset_names, open_dataset
from rollout.errors import DataError
from rollout.frames import load_frame
from rollout.types import Sample

ALL = [(name, split) for name, splits in SPLITS.items() for split in splits]
Bits = NDArray[np.bool_]
Wanted = tuple[str, str, str, "list[Bits] | None"]
"""(clip, text, kind, one (T, H, W) mask an object; None where the data set has no masks)."""


def of_expressions(clip: DrawnClip, kinds: list[str] | None = None, masks: bool = True) -> Iterator[Wanted]:
    for n, e in enumerate(clip.expressions):
        kind = kinds[n % len(kinds)] if kinds else ""
        yield clip.name, e.text, kind, [clip.masks[k] for k in e.targets] if masks else None


def of_objects(clip: DrawnClip, texts: str, kind: str = "", masks: bool = True) -> Iterator[Wanted]:
    for text, k in one_object(clip):
        for words in texts.split("|"):
            yield clip.name, words.format(text), kind, [clip.masks[k]] if masks else None


def of_actions(clip: DrawnClip) -> Iterator[Wanted]:
    n = 0
    for text, k in one_object(clip):
        for start, end in ACTIONS:
            window, mask = action_window(start, end), np.zeros_like(clip.masks[k])
            mask[window] = clip.masks[k, window]
            if mask.any():
                n += 1
                yield clip.name, f"Who is {text}?", QUESTION_TYPES[(n + clip.number) % 4], [mask]


def of_image(dataset: str, clip: DrawnClip) -> Iterator[Wanted]:
    t = shown_frame(clip)
    shown = visible_objects(clip, t)
    if dataset == "gcg":
        caption, spans = gcg_caption(clip, t)
        for k, (a, b) in spans.items():
            yield clip.name, caption[a:b], "phrase", [clip.masks[k, t][None]]
    elif dataset == "reasonseg":
        first, k = shown[0]
        long = clip.number % 2 == 1
        for text in [f"which one is {first}?", first] if long else [f"{first}, not the café's"]:
            yield clip.name, text, "long" if long else "short", [clip.masks[k, t][None]]
    else:
        for text, k in shown:
            for said in (text, f"the {k + 1}. shape"):
                yield clip.name, said, "", [clip.masks[k, t][None]]


def wanted(dataset: str, split: str, clip: DrawnClip) -> list[Wanted]:
    if dataset in ("refcoco", "refcoco_plus", "refcocog", "reasonseg", "gcg"):
        return list(of_image(dataset, clip))
    if dataset == "ref_ytvos":
        return list(of_objects(clip, "{}|{} in the clip", masks=split == "train"))
    if dataset == "ref_davis17":
        return list(of_objects(clip, "{} (first 1)|{} (full 1)|{} (first 2)|{} (full 2)"))
    if dataset == "ref_sav":
        return list(of_objects(clip, "{}") if split == "train" else of_expressions(clip, ["long", "short"]))
    if dataset == "long_rvos":
        kinds = [LONG_RVOS_TYPES[(clip.number + k) % 3] for k in range(len(clip.masks))]
        return [(*w[:2], kinds[n], w[3]) for n, w in enumerate(of_objects(clip, "{}"))]
    if dataset == "reasonvos":
        return list(of_objects(clip, "Which one is {}?|{} is what?", REASONVOS_SOURCES[clip.number % 4]))
    if dataset == "groundmore":
        return list(of_actions(clip))
    if dataset == "timelens":
        return list(of_objects(clip, "{} is there", "cosmo_cap", masks=False))
    if dataset == "chatunivi":
        asked = ("What is to be seen?", "How many shapes are there?")
        return [(clip.name, text, "dialogue", None) for text in asked]
    return list(of_expressions(clip, masks=not (dataset.startswith("mevis") and split in ("valid", "test"))))


def assert_read(sample: Sample, drawn: Wanted) -> None:
    name, text, kind, masks = drawn
    assert (sample.clip.name, sample.expression.text, sample.expression.kind) == (name, text, kind)
    assert (sample.clip.height, sample.clip.width) == (48, 64)
    if masks is None:
        assert sample.masklets is None
        return
    assert sample.masklets is not None and len(sample.masklets.rles) == len(masks)
    assert sample.masklets.num_frames == sample.clip.num_frames
    for o, mask in enumerate(masks):
        assert sample.clip.num_frames == len(mask)
        for t in range(len(mask)):
            assert np.array_equal(sample.masklets.object_mask(o, t), mask[t]), (sample.id, o, t)


def test_every_data_set_has_a_layout_and_every_layout_a_data_set() -> None:
    assert layout_names() == dataset_names() == sorted(SPLITS)


@pytest.mark.parametrize(("dataset", "split"), ALL, ids=lambda v: v)
def test_samples_are_what_was_drawn(dataset: str, split: str, layouts: Path) -> None:
    data = open_dataset(dataset, layouts / dataset, split, strict=True)
    assert data.validate() == []
    samples = list(data.samples())
    drawn = [w for clip in draw_clips(dataset, split) for w in wanted(dataset, split, clip)]
    assert len(samples) == len(drawn) == len(data) > 0
    assert len({s.id for s in samples}) == len(samples)
    for sample, one in zip(samples, drawn, strict=True):
        assert_read(sample, one)
        assert data.get(sample.clip.name, sample.expression.id) == sample


@pytest.mark.parametrize(("dataset", "split"), ALL, ids=lambda v: v)
def test_frames_are_those_that_were_drawn(dataset: str, split: str, layouts: Path) -> None:
    data = open_dataset(dataset, layouts / dataset, split)
    for drawn in draw_clips(dataset, split):
        clip = data.clip(drawn.name)
        frames = drawn.frames if clip.num_frames > 1 else drawn.frames[[shown_frame(drawn)]]
        assert clip.num_frames == len(frames)
        for t in (0, clip.num_frames - 1, clip.num_frames // 2):
            shown = np.asarray(load_frame(clip, t)).astype(int)
            difference = [np.abs(shown.mean(2) - f.astype(int).mean(2)).mean() for f in frames]
            assert difference[t] < 6 and difference[t] <= min(difference) + 1e-9, (t, np.round(difference, 2))


def test_revos_keeps_types_and_foreground(layouts: Path) -> None:
    data = open_dataset("revos", layouts / "revos", "valid")
    for clip in draw_clips("revos", "valid"):
        assert [e.type_id for e in data.expressions(clip.name)] == [e.type_id for e in clip.expressions]
        assert 2 in [e.type_id for e in data.expressions(clip.name)]
        foreground = data.foreground(clip.name)
        assert foreground is not None
        assert np.array_equal(foreground.union(5), clip.union(tuple(range(len(clip.masks))), 5))


def test_times_become_existence(layouts: Path) -> None:
    data = open_dataset("timelens", layouts / "timelens", "train")
    for clip in draw_clips("timelens", "train"):
        for e, (_, k) in zip(data.expressions(clip.name), one_object(clip), strict=True):
            seen = clip.masks[k].any((1, 2)).nonzero()[0]
            existence = data.existence(clip.name, e.id)
            assert existence is not None and len(existence) == clip.num_frames
            assert existence.nonzero()[0].tolist() == list(range(seen[0], seen[-1] + 1)), FPS


def test_existence_by_masks_and_none_without(layouts: Path) -> None:
    data = open_dataset("groundmore", layouts / "groundmore", "test")
    sample = next(data.samples())
    assert sample.masklets is not None
    found = data.existence(sample.clip.name, sample.expression.id)
    assert found is not None and found.tolist() == sample.masklets.existence().tolist()
    assert sample.clip.fps == 6.0
    valid = open_dataset("mevis", layouts / "mevis", "valid")
    assert valid.existence(valid.clips()[0], "0") is None


def test_dialogues_and_records_come_along(layouts: Path) -> None:
    chat = open_dataset("chatunivi", layouts / "chatunivi", "train")
    dialogue = chat.dialogue("v_00000.mp4", "VIDEO_1")
    assert dialogue[0] == ("human", "<video>\nHow many shapes are there?") and dialogue[1][0] == "gpt"
    gcg = open_dataset("gcg", layouts / "gcg", "flickr")
    (clip, *_), drawn = gcg.clips(), draw_clips("gcg", "flickr")[0]
    answer = gcg.dialogue(clip, "0")[1][1]
    assert answer.count("[SEG]") == len(gcg.expressions(clip)) == len(visible_objects(drawn, shown_frame(drawn)))
    assert "<p> shape" in answer
    traces = open_dataset("vts_cot", layouts / "vts_cot", "longrvos")
    sample = next(traces.samples())
    record = traces.record(sample.clip.name, sample.expression.id)
    assert record.exp == sample.expression.text and len(record.replies) == 2
    assert record.conversations == traces.dialogue(sample.clip.name, sample.expression.id)
    assert traces.dialogue(sample.clip.name, "nope") == () and gcg.record(clip, "0") is None


def test_davis_masks_are_the_same_from_the_pickle(tmp_path: Path) -> None:
    root = tmp_path / "davis"
    write_layout("ref_davis17", root, clips=2)
    ours = [s.masklets for s in open_dataset("ref_davis17", root, "valid").samples()]
    (root / "valid/Annotations").rename(root / "valid/gone")
    data = open_dataset("ref_davis17", root, "valid", strict=True)
    assert data.files.numbered_masks
    for a, s in zip(ours, data.samples(), strict=True):
        assert a is not None and s.masklets is not None
        assert all(np.array_equal(a.union(t), s.masklets.union(t)) for t in range(a.num_frames))


def test_published_valid_of_ref_ytvos_is_cut_to_its_own_clips(layouts: Path, tmp_path: Path) -> None:
    data = open_dataset("ref_ytvos", layouts / "ref_ytvos", "valid")
    assert data.clips() == [c.name for c in draw_clips("ref_ytvos", "valid")]


def test_the_same_seed_gives_the_same_files_and_clips_do_not_depend_on_their_number(tmp_path: Path) -> None:
    def digests(root: Path) -> dict[str, str]:
        files = (p for p in root.rglob("*") if p.is_file() and p.suffix != ".mp4")
        return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    assert write_layout("ref_davis17", tmp_path / "a", clips=1) == {"train": 1, "valid": 1}
    write_layout("ref_davis17", tmp_path / "b", clips=1)
    write_layout("ref_davis17", tmp_path / "more", clips=2)
    write_layout("ref_davis17", tmp_path / "other", seed=1, clips=1)
    a, b, more, other = (digests(tmp_path / n) for n in ("a", "b", "more", "other"))
    assert a == b
    assert all(more[name] == digest for name, digest in a.items() if "train_" in name)
    assert not {d for n, d in a.items() if n.endswith(".jpg")} & {d for n, d in other.items() if n.endswith(".jpg")}


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no layout called 'revoss'.*mevis"):
        write_layout("revoss", tmp_path / "x")
    with pytest.raises(DataError, match="clips = 0"):
        write_layout("revos", tmp_path / "x", clips=0)
    (tmp_path / "x").mkdir()
    (tmp_path / "x/mine.txt").write_text("keep")
    with pytest.raises(DataError, match="already exists"):
        write_layout("revos", tmp_path / "x")
    assert (tmp_path / "x/mine.txt").read_text() == "keep"
