"""Traces of an imperfect teacher: rates as stated, words that fit, and none of it unless asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_construction.cot.build import read_marks, read_names, scene_objects, trace_sample
from data_construction.cot.habits import Habits
from data_construction.cot.plan import TraceSettings
from data_construction.readers import open_dataset
from data_construction.readers.records import VTSCoTRecord, read_vts_cot
from data_construction.synthetic import make_synthetic
from rollout.errors import RecipeError
from rollout.protocol import parse_turn
from rollout.types import Action, Sample

TEACHER = TraceSettings(turns=(0.0, 1.0), middle_habit=0.5, wrong_interval=0.15, noise=0.1)
SHOWN = 400


@pytest.fixture(scope="module")
def badges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "badges"
    make_synthetic(root, {"train": 2}, seed=4, frames=(64, 64), size=64, world="badges", traces=TEACHER)
    return root


def many_traces(root: Path, settings: TraceSettings, count: int = SHOWN) -> list[tuple[Sample, VTSCoTRecord]]:
    """Traces of the samples of a train split, again and again under other seeds."""
    data, names, marks = open_dataset("revos", root, "train"), read_names(root), read_marks(root)
    out: list[tuple[Sample, VTSCoTRecord]] = []
    for clip in data.clips():
        objects = scene_objects(data, clip, names[clip], marks)
        for expression in data.expressions(clip):
            sample = data.get(clip, expression.id)
            out += [(sample, trace_sample(sample, objects, settings, seed)) for seed in range(count // 8)]
    return out


def test_first_choices_come_at_the_stated_rates() -> None:
    rng, found = np.random.default_rng(0), []
    for _ in range(4000):
        found.append(Habits(0.5, 0.15).first_choice(int(rng.integers(64)), 64, rng))
    wide = [g for g in found if g is not None and g.end - g.start > 20]
    wrong = [g for g in found if g is not None and g.end - g.start <= 20]
    assert len(wide) / 4000 == pytest.approx(0.5, abs=0.03) and len(wrong) / 4000 == pytest.approx(0.15, abs=0.02)
    assert {(g.start, g.end, g.keyframe) for g in wide} == {(0, 32, 16), (16, 48, 32), (32, 63, 47)}
    assert all(0 <= g.start <= g.keyframe <= g.end < 64 for g in [*wide, *wrong])
    state = rng.bit_generator.state
    assert Habits().first_choice(3, 64, rng) is None and rng.bit_generator.state == state


def test_close_looks_of_a_good_teacher_read_the_marks(badges: Path) -> None:
    for sample, record in many_traces(badges, TraceSettings(turns=(0.0, 1.0)), 80):
        first, last = record.replies
        assert parse_turn(first).action is Action.SELECT and parse_turn(last).action is Action.ANSWER
        legible = sample.expression.legible
        choice = record.cot_trace[0]
        assert choice.keyframe in legible and choice.start <= legible[0] and choice.end >= legible[-1]
        assert record.cot_trace[1] == choice and not record.noisy
        for word in ("Step 1:", "Step 2:", "Step 3:", "Action:"):
            assert word in first and word in last


def test_the_imperfect_teachers_rates(badges: Path) -> None:
    names, marks = read_names(badges), read_marks(badges)
    hit, noisy, named_right = [], [], []
    for sample, record in many_traces(badges, TEACHER):
        hit.append(record.cot_trace[0].keyframe in sample.expression.legible)
        noisy.append(record.noisy)
        (anno_id,) = sample.expression.anno_ids
        known = names[sample.clip.name]
        listed, _, said = record.replies[1].partition("Step 3:")
        assert all(f"{marks[a]} {known[a]}" in listed for a in known), "all marks are listed"
        named_right.append(f"{marks[anno_id]} {known[anno_id]}." in said)
        assert record.anno_id == sample.expression.anno_ids, "masks stay those of the target"
    assert np.mean(noisy) == pytest.approx(0.1, abs=0.05)
    assert [not n for n in noisy] == named_right
    # 0.35 choose well; a habit's keyframe, one of three, and a wrong interval hit the window by chance
    assert 0.35 < np.mean(hit) < 0.75


def test_files_of_a_world_hold_its_traces(badges: Path) -> None:
    data = open_dataset("revos", badges, "train")
    records = read_vts_cot(badges / "vts_cot_train.json", dataset=data)
    assert len(records) == 8 and all(len(r.replies) == 2 for r in records)
    assert "the " in records[0].exp and f"find {records[0].exp}" in records[0].conversations[1][1]


def test_the_old_worlds_teacher_has_the_same_habits(synthetic: Path) -> None:
    """A wide first interval with the keyframe at its middle, in words that claim nothing seen."""
    habitual = replace(TEACHER, middle_habit=1.0, wrong_interval=0.0, noise=0.0, recover=0.0)
    wide = 0
    for sample, record in many_traces(synthetic, habitual, 16):
        first = record.cot_trace[0]
        total = sample.clip.num_frames
        assert first.keyframe == (first.start + first.end) // 2 and first.end - first.start >= total // 2 - 1
        wide += "may be from" in record.replies[0]
        assert "clear" not in record.replies[0].partition("Step 2:")[2].partition("Step 3:")[0]
    assert wide


def test_without_habits_nothing_changes(synthetic: Path) -> None:
    plain = TraceSettings()
    assert "middle_habit" not in plain.to_dict(), "a folder made before there were habits is still the same"
    assert TEACHER.to_dict()["middle_habit"] == 0.5
    assert Habits() == plain.habits


def test_rates_that_cannot_be_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"middle_habit = 0\.9, wrong_interval = 0\.2"):
        TraceSettings(middle_habit=0.9, wrong_interval=0.2)
    with pytest.raises(RecipeError, match=r"middle_habit = -0\.1"):
        TraceSettings(middle_habit=-0.1)
