"""The world of like pairs, and the teacher who draws the other one: at the stated rate, in the masks alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from data_construction.check import check_dataset
from data_construction.cot import TraceSettings, write_training_files
from data_construction.cot.habits import drawn_instead
from data_construction.cot.tracks import SceneObject
from data_construction.readers import open_dataset, read_vts_cot
from data_construction.readers.records import VTSCoTRecord, read_rl_annotations
from data_construction.synthetic import make_synthetic, object_words, read_synthetic_objects
from data_construction.synthetic.twins import draw_twins, render_twins
from rollout.errors import RecipeError
from rollout.types import Sample
from verl_ext.cli.main import app

RATE = 0.6
TEACHER = TraceSettings(temporal_frames=4, spatial_frames=2, turns=(1.0,), describe_target=False, wrong_twin=RATE)
Edit = Callable[[Path, Callable[[Any], object]], None]


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only: 40 + 2 clips of 12 frames at 64 pixels."""
    root = tmp_path_factory.mktemp("data") / "twins"
    make_synthetic(root, {"train": 40, "test": 2}, 4, frames=(12, 12), size=64, world="twins", traces=TEACHER)
    return root


def partner(anno_id: str) -> str:
    """Annotations count up over upper left, upper right, lower left, lower right of each clip."""
    return str(int(anno_id) ^ 1)


def test_the_discs_of_a_pair_are_alike_in_every_frame_but_for_their_place() -> None:
    swapped = 0
    for seed in range(10):
        scene = draw_twins(np.random.default_rng(seed), 24, 128)
        assert scene.masks.any((2, 3)).all() and not (scene.masks.sum(0) > 1).any(), "always there, never overlapping"
        frames = render_twins(scene, np.random.default_rng(seed)).astype(float)
        for left, right in ((0, 1), (2, 3)):
            a, b = scene.objects[left], scene.objects[right]
            assert (a.name, a.color) == (b.name, b.color) and np.array_equal(a.radii, b.radii)
            assert (a.path[:, 0] < 64).all() and (b.path[:, 0] > 64).all()
            colors = [frames[scene.masks[k]].mean(0) for k in (left, right)]
            assert np.abs(colors[0] - colors[1]).max() < 1.0
            areas = scene.masks[[left, right]].sum((2, 3))
            assert np.abs(areas[0] - areas[1]).max() < 0.12 * areas.max(), "the grid alone"
        assert scene.objects[0].color != scene.objects[2].color
        swapped += scene.objects[0].color < scene.objects[2].color
    assert 0 < swapped < 10


def test_an_expression_names_the_side_and_a_trace_never_does(twins: Path) -> None:
    objects = read_synthetic_objects(twins)
    samples = list(open_dataset("revos", twins, "test").samples())
    assert len(samples) == 8
    for sample in samples:
        description = objects[sample.expression.anno_ids[0]]
        row_side, row, side = object_words(description)
        assert row_side == f"{row} {side}"
        assert sample.expression.text == f"the {side} one of the {row} {description['color']} discs"
    for record in read_vts_cot(twins / "vts_cot_train.json"):
        (reply,) = record.replies
        assert "left" not in reply and "right" not in reply, "the [SEG] state alone carries the choice"
        assert objects[record.anno_id[0]]["name"] in reply and record.exp.split()[1] in ("left", "right")


def test_the_habit_is_in_the_masks_alone_and_at_its_rate(twins: Path, tmp_path: Path) -> None:
    data = open_dataset("revos", twins, "train")
    honest = replace(TEACHER, wrong_twin=0.0)
    write_training_files(data, tmp_path, honest, seed=4)
    told, plain = (read_vts_cot(p / "vts_cot_train.json") for p in (twins, tmp_path))
    habit = [r for r in told if r.mask_anno_id]
    assert len(told) == 160 and abs(len(habit) / 80 - RATE) < 3 * (RATE * (1 - RATE) / 80) ** 0.5
    assert all(r.mask_anno_id == (partner(r.anno_id[0]),) and " right " in r.exp for r in habit)
    assert [replace(r, mask_anno_id=()) for r in told] == plain, "nothing else is another's"
    assert not any(r.mask_anno_id for r in plain)
    always = tmp_path / "always"
    always.mkdir()
    write_training_files(data, always, replace(TEACHER, wrong_twin=1.0), seed=4)
    for r in read_vts_cot(always / "vts_cot_train.json"):
        assert r.mask_anno_id == ((partner(r.anno_id[0]),) if " right " in r.exp else ())


def test_supervision_draws_what_the_teacher_drew_and_rewards_see_the_truth(twins: Path) -> None:
    from verl_ext.run.sources import sample_of

    data = open_dataset("revos", twins, "train")
    records = read_vts_cot(twins / "vts_cot_train.json")
    for record, truth in zip(records, data.samples(), strict=True):
        shown = sample_of(data, record)
        drawn = data.masklets(record.video_name, record.mask_anno_id or record.anno_id)
        assert shown.masklets == drawn and shown.expression == truth.expression
        assert (shown.masklets == truth.masklets) is not bool(record.mask_anno_id)
        again = Sample.from_dict(json.loads(json.dumps(shown.to_dict()))).masklets
        assert again == drawn, "as it travels to the loss"
    rewarded = list(read_rl_annotations(twins / "rl_annotations_train.json", data))
    assert rewarded == list(data.samples())


def test_a_recipe_trains_on_the_one_and_reinforces_on_the_other(twins: Path) -> None:
    from verl_ext.quickstart.settings import Layout, stage_recipe
    from verl_ext.quickstart.twins import twin_settings
    from verl_ext.run.sources import load_samples, load_traces

    layout = Layout(twins.parent)
    (layout.out / "data").symlink_to(twins, target_is_directory=True)
    traces = load_traces(stage_recipe(layout, "cold_start.yaml", twin_settings(), 0))
    samples = load_samples(stage_recipe(layout, "grpo.yaml", twin_settings(), 0))
    assert len(traces) == len(samples) == 160
    truth = {s.id: s.masklets for s in open_dataset("revos", twins, "train").samples()}
    assert all(s.masklets == truth[s.id] for s in samples)
    assert sum(s.masklets != truth[s.id] for s, _ in traces) == sum(bool(r.mask_anno_id) for _, r in traces) > 30


def test_a_check_counts_such_traces_and_finds_masks_that_are_not_there(twins: Path, tmp_path: Path, edit: Edit) -> None:
    import shutil

    report = check_dataset("revos", twins)
    wanted = sum("mask_anno_id" in r for r in json.loads((twins / "vts_cot_train.json").read_text()))
    assert report.ok and report.splits["train"].traces_of_other_masks == wanted > 0
    assert "traces that draw another object" in report.table()
    root = Path(shutil.copytree(twins, tmp_path / "broken"))

    def lose(records: Any) -> None:
        next(r for r in records if "mask_anno_id" in r)["mask_anno_id"] = [9999]

    edit(root / "vts_cot_train.json", lose)
    broken = check_dataset("revos", root, splits=["train"])
    assert not broken.ok and "annotation 9999: has no masks" in broken.table()


def test_records_keep_whose_masks_they_draw(twins: Path) -> None:
    record = next(r for r in read_vts_cot(twins / "vts_cot_train.json") if r.mask_anno_id)
    assert VTSCoTRecord.from_dict(record.to_dict()) == record
    assert "mask_anno_id" not in replace(record, mask_anno_id=()).to_dict()


@pytest.mark.parametrize("processes", [1, 3])
def test_traces_are_the_same_whatever_the_number_of_processes(twins: Path, tmp_path: Path, processes: int) -> None:
    data = open_dataset("revos", twins, "train")
    assert write_training_files(data, tmp_path, TEACHER, 4, processes=processes) == 160
    for name in ("vts_cot_train.json", "rl_annotations_train.json"):
        assert (tmp_path / name).read_bytes() == (twins / name).read_bytes()


def like(anno_id: str, name: str) -> SceneObject:
    return SceneObject(anno_id, name, np.ones(4, dtype=np.int64), np.zeros((4, 2)))


def test_only_the_first_object_of_the_same_name_is_drawn_instead() -> None:
    rng = np.random.default_rng(0)
    objects = [like("1", "red disc"), like("2", "red disc"), like("3", "blue disc"), like("4", "red disc")]
    assert {drawn_instead((a,), objects, 1.0, rng) for a in ("2", "4") for _ in range(20)} == {("1",)}
    assert drawn_instead(("1",), objects, 1.0, rng) == (), "the first is always drawn right"
    assert np.mean([bool(drawn_instead(("2",), objects, 0.3, rng)) for _ in range(2000)]) == pytest.approx(
        0.3, abs=0.04
    )
    assert drawn_instead(("3",), objects, 1.0, rng) == ()
    assert drawn_instead(("1", "2"), objects, 1.0, rng) == () == drawn_instead((), objects, 1.0, rng)
    assert drawn_instead(("2",), [like("1", "target"), like("2", "target")], 1.0, rng) == (), "no names, nothing alike"
    state = rng.bit_generator.state
    assert drawn_instead(("2",), objects, 0.0, rng) == () and rng.bit_generator.state == state


def test_bad_input_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for rate in (-0.1, 1.5):
        with pytest.raises(RecipeError, match=rf"wrong_twin = {rate}: wants a share in 0\.\.1"):
            TraceSettings(wrong_twin=rate)
    given = ["data", "synthetic", str(tmp_path / "x"), "--wrong-twin"]
    none = CliRunner().invoke(app, [*given, "0.5", "--world", "badges"])
    assert none.exit_code == 2 and "world badges has no like objects" in " ".join(none.stderr.split())
    wrong = CliRunner().invoke(app, [*given, "2", "--world", "twins"])
    assert wrong.exit_code == 2 and "wrong_twin = 2.0" in " ".join(wrong.stderr.split())
    other = CliRunner().invoke(app, [*given, "0.5", "--layout", "mevis"])
    assert other.exit_code == 2 and "--wrong-twin" in other.stderr
    assert not (tmp_path / "x").exists()
    assert "wrong_twin" not in TraceSettings().to_dict() and TEACHER.to_dict()["wrong_twin"] == RATE
