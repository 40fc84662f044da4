"""Synthetic clips: same seed same bytes, splits apart, every answer right by an independent reckoning."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_construction.readers import open_dataset
from data_construction.synthetic import DEFAULT_KINDS, KINDS, make_synthetic, read_synthetic_objects
from data_construction.synthetic.clip import make_clip
from rollout.errors import DataError, RecipeError
from rollout.types import Sample
from tests.data_construction.conftest import CLIPS


def digests(root: Path) -> dict[str, str]:
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_same_seed_gives_the_same_bytes_and_another_seed_other_frames(tiny: Path, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"clips": {"train": 3, "valid": 2}, "frames": (12, 12), "size": 48}
    make_synthetic(tmp_path / "again", seed=2, **arguments)
    make_synthetic(tmp_path / "other", seed=3, **arguments)
    first, again, other = digests(tiny), digests(tmp_path / "again"), digests(tmp_path / "other")
    assert first == again
    frames = [f for f in first if f.endswith(".jpg")]
    assert len(frames) == 5 * 12
    assert not {first[f] for f in frames} & {other[f] for f in frames}


def test_a_clip_does_not_depend_on_how_many_others_there_are(tiny: Path, tmp_path: Path) -> None:
    make_synthetic(tmp_path / "one", {"train": 1}, seed=2, frames=(12, 12), size=48)
    frame = Path("JPEGImages/train_00000/00005.jpg")
    assert (tmp_path / "one" / frame).read_bytes() == (tiny / frame).read_bytes()


def test_splits_share_no_clip_and_no_frame(synthetic: Path) -> None:
    clips = {s: set(open_dataset("revos", synthetic, s).clips()) for s in CLIPS}
    assert {s: len(c) for s, c in clips.items()} == CLIPS
    assert not clips["train"] & clips["valid"] and not clips["train"] & clips["test"]
    frames = [d for f, d in digests(synthetic).items() if f.endswith(".jpg")]
    assert len(set(frames)) == len(frames)


def test_files_hold_what_was_drawn(synthetic: Path) -> None:
    drawn = make_clip(5, "train", 3, (16, 24), 96, DEFAULT_KINDS)
    data = open_dataset("revos", synthetic, "train")
    clip = data.clip("train_00003")
    assert clip.num_frames == len(drawn.frames) and (clip.height, clip.width) == (96, 96)
    for path, frame in zip(clip.frames, drawn.frames, strict=True):
        shown = np.asarray(Image.open(path)).astype(int)
        # JPEG halves the colour resolution, so single pixels at edges differ; the brightness stays close.
        assert np.abs(shown.mean(2) - frame.astype(int).mean(2)).mean() < 6
    for expression, asked in zip(data.expressions("train_00003"), drawn.expressions, strict=True):
        masklets = data.get("train_00003", expression.id).masklets
        assert expression.text == asked.text and masklets is not None
        for t in range(clip.num_frames):
            wanted = drawn.scene.masks[list(asked.targets), t].any(0)
            assert np.array_equal(masklets.union(t), wanted)
    foreground = data.foreground("train_00003")
    assert foreground is not None
    assert np.array_equal(foreground.union(7), drawn.scene.masks[:, 7].any(0))


def test_shapes_enter_leave_hide_each_other_and_change_speed() -> None:
    scenes = [make_clip(9, "train", n, (16, 24), 96, DEFAULT_KINDS).scene for n in range(30)]
    objects = [o for s in scenes for o in s.objects]
    assert {len(s.objects) for s in scenes} == {3, 4}
    assert 0.1 < np.mean([o.enter > 0 for o in objects]) < 0.9
    assert 0.1 < np.mean([o.leave < len(o.path) - 1 for o in objects]) < 0.9
    assert np.mean([len(set(np.round(o.speeds, 3))) > 1 for o in objects]) > 0.2
    hidden = [((s.areas < s.whole_areas) & (s.areas > 0)).any() for s in scenes]
    assert np.mean(hidden) > 0.3
    assert len({o.texture for o in objects}) == 4


# The reckoning below reads the files only: masks, object descriptions and the text of the expression.

AREA = {"circle": np.pi, "square": 1.76**2, "triangle": 0.62 * 1.75**2}


class Oracle:
    def __init__(self, sample: Sample, objects: dict[str, dict[str, Any]], data: Any) -> None:
        self.o = {a: d for a, d in objects.items() if d["video"] == sample.clip.name}
        self.T = sample.clip.num_frames
        masks = {a: data.masklets(sample.clip.name, (a,)) for a in self.o}
        self.there = {a: masks[a].existence().astype(bool) for a in self.o}
        self.first = {a: int(np.flatnonzero(e)[0]) for a, e in self.there.items()}
        self.last = {a: int(np.flatnonzero(e)[-1]) for a, e in self.there.items()}
        middle = {a: np.argwhere(masks[a].union(self.T // 2)) for a in self.o}
        self.middle = {a: m.mean(0) for a, m in middle.items() if len(m)}

    def having(self, **wanted: str) -> set[str]:
        return {a for a, d in self.o.items() if all(d[k] == v for k, v in wanted.items())}

    def named(self, name: str) -> str:
        color, shape = name.split()
        (found,) = self.having(color=color, shape=shape)
        return found

    def extreme(self, values: Mapping[str, float], sign: int) -> set[str]:
        best = max(sign * v for v in values.values())
        return {a for a, v in values.items() if sign * v == best}

    def answer(self, text: str) -> set[str]:
        singular = text.replace("circles", "circle").replace("squares", "square").replace("triangles", "triangle")
        area = {a: AREA[d["shape"]] * d["radius"] ** 2 for a, d in self.o.items()}
        if m := re.fullmatch(r"the (leftmost|rightmost|highest|lowest) shape in the middle frame", text):
            axis, sign = {"leftmost": (1, -1), "rightmost": (1, 1), "highest": (0, -1), "lowest": (0, 1)}[m[1]]
            return self.extreme({a: c[axis] for a, c in self.middle.items()}, sign)
        if m := re.fullmatch(r"the shape moving (\w+)", text):
            return self.having(direction=m[1])
        if text == "the shape that stands still":
            return self.having(direction="still")
        if text == "the shape that appears last":
            return self.extreme(self.first, 1)
        if text == "the shape that leaves first":
            return self.extreme(self.last, -1)
        if m := re.fullmatch(r"the shape that appears after the (\w+ \w+) has left", text):
            return {a for a in self.o if self.first[a] > self.last[self.named(m[1])]}
        if m := re.fullmatch(r"the shape that leaves before the (\w+ \w+) appears", text):
            return {a for a in self.o if self.last[a] < self.first[self.named(m[1])]}
        if m := re.fullmatch(r"the (largest|smallest) shape", text):
            return self.extreme(area, 1 if m[1] == "largest" else -1)
        if m := re.fullmatch(r"the (larger|smaller) (\w+)", text):
            return self.extreme({a: area[a] for a in self.having(shape=m[2])}, 1 if m[1] == "larger" else -1)
        if m := re.fullmatch(r"all (\w+)", singular):
            return self.having(shape=m[1])
        if m := re.fullmatch(r"the (two|three|four) (\w+) shapes", text):
            return self.counted(m[1], self.having(color=m[2]))
        if m := re.fullmatch(r"the (two|three|four) (\w+)", singular):
            return self.counted(m[1], self.having(shape=m[2]))
        if m := re.fullmatch(r"the shape that is not a (\w+)", text):
            return set(self.o) - self.having(shape=m[1])
        if m := re.fullmatch(r"the (\w+) shape that is not a (\w+)", text):
            return self.having(color=m[1]) - self.having(shape=m[2])
        if m := re.fullmatch(r"the (\w+) that is not (\w+)", text):
            return self.having(shape=m[1]) - self.having(color=m[2])
        color, shape = re.fullmatch(r"the (\w+) (\w+)", text).groups()  # type: ignore[union-attr]
        return self.having(color=color, shape=shape)

    def counted(self, word: str, found: set[str]) -> set[str]:
        assert len(found) == {"two": 2, "three": 3, "four": 4}[word]
        return found


def test_every_expression_has_exactly_the_targets_that_its_text_describes(synthetic: Path) -> None:
    objects = read_synthetic_objects(synthetic)
    seen: Counter[str] = Counter()
    for split in CLIPS:
        data = open_dataset("revos", synthetic, split)
        for sample in data.samples():
            e = sample.expression
            assert Oracle(sample, objects, data).answer(e.text) == set(e.anno_ids), (sample.id, e.text)
            wanted = {"no_target": 0, "count": range(2, 5)}.get(e.kind, 1)
            assert len(e.anno_ids) in (wanted if isinstance(wanted, range) else [wanted]), e.text
            assert e.type_id == KINDS[e.kind][0]
            seen[e.kind] += 1
    assert set(seen) == set(KINDS) and min(seen.values()) >= 8, seen


@pytest.mark.parametrize(
    ("kind", "type_id"),
    [
        ("attribute", 0),
        ("position", 0),
        ("motion", 0),
        ("temporal", 1),
        ("comparison", 1),
        ("count", 1),
        ("negation", 1),
        ("no_target", 2),
    ],
)
def test_each_kind_can_be_asked_for_alone(kind: str, type_id: int, tmp_path: Path) -> None:
    make_synthetic(tmp_path / "one", {"test": 4}, seed=11, frames=(16, 16), size=64, kinds=[kind])
    data, objects = open_dataset("revos", tmp_path / "one", "test"), read_synthetic_objects(tmp_path / "one")
    samples = list(data.samples())
    assert {s.clip.name for s in samples} == set(data.clips())
    for s in samples:
        assert (s.expression.kind, s.expression.type_id) == (kind, type_id)
        assert Oracle(s, objects, data).answer(s.expression.text) == set(s.expression.anno_ids), s.expression.text


def test_numbers_of_a_kind_are_followed(tmp_path: Path) -> None:
    clips = {"train": 12}
    make_synthetic(tmp_path / "n", clips, 1, (12, 12), 48, kinds={"attribute": 2, "no_target": 0.5})
    data = open_dataset("revos", tmp_path / "n", "train")
    per_clip = [Counter(e.kind for e in data.expressions(c)) for c in data.clips()]
    assert all(c["attribute"] == 2 for c in per_clip)
    assert {c["no_target"] for c in per_clip} == {0, 1}


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"colour.*attribute"):
        make_synthetic(tmp_path / "x", {"train": 1}, 0, kinds=["colour"])
    with pytest.raises(RecipeError, match=r"frames = \(4, 9\)"):
        make_synthetic(tmp_path / "x", {"train": 1}, 0, frames=(4, 9))
    with pytest.raises(RecipeError, match="dev"):
        make_synthetic(tmp_path / "x", {"dev": 1}, 0)
    assert not list(tmp_path.iterdir())


def test_the_same_arguments_reuse_the_folder_and_others_are_refused(broken: Path) -> None:
    arguments: dict[str, Any] = {"clips": {"train": 3, "valid": 2}, "frames": (12, 12), "size": 48}
    before = digests(broken)
    assert make_synthetic(broken, seed=2, **arguments).reused
    with pytest.raises(DataError, match="seed = 2, now asked for 3"):
        make_synthetic(broken, seed=3, **arguments)
    (broken / "synthetic.json").unlink()
    with pytest.raises(DataError, match="already exists"):
        make_synthetic(broken, seed=2, **arguments)
    assert {k: v for k, v in before.items() if k != "synthetic.json"} == digests(broken)


def test_long_clips_and_progress(tmp_path: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    report = make_synthetic(
        tmp_path / "long", {"train": 2}, 4, frames=(48, 48), size=64, progress=lambda *a: calls.append(a)
    )
    assert report.frames == 96 and report.traces == sum(report.kinds["train"].values())
    assert calls[0] == (0, 2, "drawing train clips") and calls[-1] == (2, 2, "planning train traces")
    assert json.loads((tmp_path / "long/synthetic.json").read_text())["written"]["frames"] == 96
