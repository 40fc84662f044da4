"""The world that wants a closer look: what is drawn, what vanishes in smaller frames, and what the files say."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from data_construction.check import check_dataset
from data_construction.cot.closeup import sighting
from data_construction.cot.tracks import SceneObject
from data_construction.readers import open_dataset
from data_construction.synthetic import make_synthetic, object_words, read_synthetic_objects
from data_construction.synthetic.badges import BACK, COLOR, WINDOW, draw_badges
from data_construction.synthetic.hidden import shrink_matrix
from data_construction.synthetic.marks import MARK_DEPTH, MARKS, render_badges, window_marks
from data_construction.synthetic.worlds import get_world
from rollout.errors import RecipeError
from rollout.frames import PixelBudget
from rollout.types import Sample
from verl_ext.cli.main import app

SIDE = 128
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def badges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only: 3 + 2 clips of 48 frames at 128 pixels."""
    root = tmp_path_factory.mktemp("data") / "badges"
    make_synthetic(root, {"train": 3, "test": 2}, seed=4, frames=(48, 48), size=SIDE, world="badges")
    return root


def test_four_like_discs_with_different_marks_and_one_window() -> None:
    starts = set()
    for seed in range(20):
        scene = draw_badges(np.random.default_rng(seed), 64, SIDE, tuple(MARKS))
        window = scene.objects[0].legible
        assert len({d.mark for d in scene.objects}) == 4 and len({d.name for d in scene.objects}) == 4
        assert all(d.legible == window for d in scene.objects) and WINDOW[0] <= len(window) <= WINDOW[1]
        assert window == tuple(range(window[0], window[-1] + 1)) and window[0] > 0 and window[-1] < 63
        assert scene.masks.any((2, 3)).all() and not (scene.masks.sum(0) > 1).any(), "always there, never overlapping"
        areas = scene.masks.sum((2, 3))
        far = [t for t in range(64) if min(abs(t - w) for w in window) > 8]
        assert areas[:, window[0]].min() > 1.5 * areas[:, far].max(), "they grow: the cue at low resolution"
        starts.add(window[0])
    assert len(starts) > 10


def test_backs_are_blue_until_the_discs_turn_and_faces_grey_in_the_window() -> None:
    scene = draw_badges(np.random.default_rng(1), 64, SIDE, tuple(MARKS))
    window = scene.objects[0].legible
    frames = render_badges(replace(scene, objects=tuple(replace(d, mark="barred") for d in scene.objects)), RNG)
    far = next(t for t in range(64) if min(abs(t - w) for w in window) > 8)
    for t, wanted in ((far, BACK), (window[0], scene.colors[window[0]])):
        assert np.allclose(frames[t][scene.masks[:, t].any(0)].mean(0), wanted, atol=2)
    faces = scene.colors[list(window)]
    assert (faces == faces[0]).all() and COLOR[0] <= faces.min() and faces.max() <= COLOR[1]


def test_a_trace_lists_the_shown_frames_in_which_discs_are_near() -> None:
    areas = np.array([10, 10, 14, 16, 20, 19, 15, 10])
    disc = SceneObject("0", "top left", areas, np.zeros((8, 2)))
    assert sighting([disc, disc], [0, 2, 3, 5, 7]) == "near at 3 5"
    assert sighting([disc], [0, 2, 7]) == "near at none"


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("factor", [2, 4])
def test_a_mark_vanishes_in_smaller_frames_and_stands_out_at_full_size(mark: str, factor: int) -> None:
    """Through Pillow itself, from frames as they are written: rounding and JPEG included."""
    scene = draw_badges(np.random.default_rng(3), 48, SIDE, tuple(MARKS))
    marked = replace(scene, objects=tuple(replace(d, mark=mark) for d in scene.objects))
    t = scene.objects[0].legible[0]
    plain = replace(scene, objects=tuple(replace(d, legible=(0,)) for d in scene.objects))

    def shown(what: object, side: int) -> np.ndarray:
        frame = Image.fromarray(render_badges(what, np.random.default_rng(9))[t])  # type: ignore[arg-type]
        written = io.BytesIO()
        frame.save(written, "JPEG", quality=95)
        small = Image.open(written).resize((side, side), Image.Resampling.BICUBIC)
        return np.asarray(small).astype(float).mean(2)

    def differences(side: int) -> np.ndarray:
        return np.abs(shown(marked, side) - shown(plain, side))

    assert np.median(differences(SIDE)[scene.masks[:, t].any(0)]) > 0.3 * MARK_DEPTH
    small = differences(SIDE // factor)
    assert small.max() <= 4.0 and small.mean() < 0.6, "no more than rounding and JPEG"


def test_what_is_taken_out_is_all_that_a_smaller_frame_shows() -> None:
    scene = draw_badges(np.random.default_rng(0), 48, SIDE, tuple(MARKS))
    pictures = window_marks(scene)
    assert np.abs(pictures).max() > 0.9
    for factor in (2, 4):
        shrink = shrink_matrix(SIDE, factor)
        assert np.abs(shrink @ pictures @ shrink.T).max() < 1e-4
        ramp = np.tile(np.arange(SIDE, dtype=np.uint8), (SIDE, 1))
        pillow = np.asarray(Image.fromarray(ramp).resize((SIDE // factor,) * 2, Image.Resampling.BICUBIC))
        assert np.abs(shrink @ ramp @ shrink.T - pillow).max() <= 1.0


def test_files_say_which_disc_and_which_frames(badges: Path) -> None:
    data, objects = open_dataset("revos", badges, "test"), read_synthetic_objects(badges)
    samples = list(data.samples())
    assert len(samples) == 8, "one expression a disc"
    for sample in samples:
        (anno_id,) = sample.expression.anno_ids
        description = objects[anno_id]
        assert sample.expression.text == f"the {description['mark']} disc" and sample.expression.kind == "mark"
        assert sample.expression.legible == tuple(description["legible"])
        assert object_words(description) == (description["name"], *description["name"].split())
        assert Sample.from_dict(sample.to_dict()) == sample
    assert check_dataset("revos", badges).ok


def test_the_budgets_that_the_recipes_name_give_full_half_and_quarter_size() -> None:
    """Marks are only hidden at a half and a quarter of the side."""
    assert [PixelBudget(units).size(256, 256) for units in (84, 21, 6)] == [(256, 256), (128, 128), (64, 64)]


def test_the_same_seed_gives_the_same_frames_and_another_split_other_ones(badges: Path, tmp_path: Path) -> None:
    make_synthetic(tmp_path / "again", {"train": 1}, seed=4, frames=(48, 48), size=SIDE, world="badges")
    frame = Path("JPEGImages/train_00000/00020.jpg")
    assert (tmp_path / "again" / frame).read_bytes() == (badges / frame).read_bytes()
    assert (badges / "JPEGImages/test_00000/00020.jpg").read_bytes() != (badges / frame).read_bytes()


def test_bad_input_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"world 'badge'.*did you mean 'badges'.*shapes, badges"):
        get_world("badge")
    given = ["data", "synthetic", str(tmp_path / "x")]
    done = CliRunner().invoke(app, [*given, "--world", "nowhere"])
    assert done.exit_code == 2 and "known: shapes, badges" in " ".join(done.stderr.split())
    short = CliRunner().invoke(app, [*given, "--world", "badges", "--frames", "20", "30"])
    assert short.exit_code == 2 and "48 <= fewest" in " ".join(short.stderr.split())
    odd = CliRunner().invoke(app, [*given, "--world", "badges", "--size", "200"])
    assert odd.exit_code == 2 and "multiple of 64" in " ".join(odd.stderr.split())
    habits = CliRunner().invoke(app, [*given, "--middle-habit", "0.7", "--wrong-interval", "0.7"])
    assert habits.exit_code == 2 and "sum to 1" in " ".join(habits.stderr.split())
    other = CliRunner().invoke(app, [*given, "--layout", "mevis", "--wrong-name", "0.1"])
    assert other.exit_code == 2 and "--wrong-name" in other.stderr
    assert not (tmp_path / "x").exists()


def test_a_legible_frame_outside_the_clip_is_a_problem_of_its_expression(tmp_path: Path, badges: Path) -> None:
    import json
    import shutil

    root = Path(shutil.copytree(badges, tmp_path / "broken"))
    path = root / "meta_expressions_test_.json"
    content = json.loads(path.read_text())
    content["videos"]["test_00000"]["expressions"]["1"]["legible"] = [3, 48]
    path.write_text(json.dumps(content))
    report = check_dataset("revos", root, splits=["test"])
    assert not report.ok and "names frame 48, the clip has 0..47" in report.table()
