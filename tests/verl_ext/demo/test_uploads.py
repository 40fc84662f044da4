"""What a visitor may bring: refused by its name, or handled."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rollout.errors import DataError
from rollout.video import video_frame, video_times
from tests.verl_ext.demo.conftest import LIMITS
from tests.videos import SIZE, index_in, write_video
from verl_ext.demo.limits import MOST_LETTERS, MOST_SENTENCES, Limits, check_upload, sentences_of
from verl_ext.demo.visits import Visits, scratch

HEIGHT, WIDTH = SIZE


def refused(file: Path, limits: Limits = LIMITS) -> str:
    with pytest.raises(DataError) as caught:
        check_upload(file, limits)
    said = str(caught.value)
    assert said.startswith(file.name) and str(file.parent) not in said, "by its name, not by where it lies here"
    return said


def test_what_is_no_video_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    assert "not a video" in refused(tmp_path / "notes.txt")
    (tmp_path / "film.mp4").write_text("hello, this is no film at all")
    assert "is no video, whatever it is called" in refused(tmp_path / "film.mp4")
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    (tmp_path / "picture.mov").write_bytes((tmp_path / "picture.png").read_bytes())
    assert "is no video" in refused(tmp_path / "picture.mov")
    (tmp_path / "empty.mp4").write_bytes(b"")
    assert "is empty (0 bytes)" in refused(tmp_path / "empty.mp4")


@pytest.mark.parametrize("text", ["#EXTM3U\n#EXTINF:1,\n{}\n", "ffconcat version 1.0\nfile {}\n"])
def test_a_list_of_other_files_is_not_followed(tmp_path: Path, text: str) -> None:
    secret = write_video(tmp_path / "secret.mp4", range(0, 400, 40))
    (tmp_path / "list.mkv").write_text(text.format(secret))
    assert "is no video" in refused(tmp_path / "list.mkv")


def test_sound_alone_and_a_film_that_is_cut_off(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "song.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    assert "holds no video, only sound" in refused(tmp_path / "song.mp4")
    whole = write_video(tmp_path / "whole.mp4", range(0, 400, 40)).read_bytes()
    (tmp_path / "torn.mp4").write_bytes(whole[: len(whole) // 2])
    assert "cannot be read as a video" in refused(tmp_path / "torn.mp4")


def test_too_long_too_large_too_wide(tmp_path: Path) -> None:
    film = write_video(tmp_path / "long.mp4", range(0, 41 * 40, 40))
    assert "has 41 frames (2 s), at most 40 are taken" in refused(film)
    big = tmp_path / "big.avi"
    big.write_bytes(bytes(2_000_000))
    assert "has 2 MB, at most 1 are taken" in refused(big)
    wide = write_video(tmp_path / "wide.mp4", [0], picture=lambda t: np.zeros((16, 4112, 3), np.uint8))
    assert "is 4112 x 16 pixels, at most 4096" in refused(wide)


def test_rotation_and_uneven_times_are_handled(tmp_path: Path) -> None:
    stamps = [0, 40, 200, 210, 900]
    turned = write_video(tmp_path / "phone.mov", stamps, turned=90)
    facts = check_upload(turned, LIMITS)
    assert (facts.num_frames, facts.height, facts.width) == (5, WIDTH, HEIGHT)
    assert video_times(turned).tolist() == [0.0, 0.04, 0.2, 0.21, 0.9]
    shown = video_frame(turned, 3)
    assert shown.size == (HEIGHT, WIDTH) and 3 in {index_in(shown.rotate(by, expand=True)) for by in (90, -90)}


def test_sentences() -> None:
    assert sentences_of(" a cat \n\n\tthe dog\n") == ["a cat", "the dog"]
    many, long = "a\n" * (MOST_SENTENCES + 1), "a" * (MOST_LETTERS + 1)
    for text, what in (("", "Say what"), (" \n", "Say what"), (many, "at most"), (long, "letters")):
        with pytest.raises(DataError, match=what):
            sentences_of(text)


# ---- files of visitors ------------------------------------------------------------------------------------------


def test_a_clip_is_kept_for_its_visitor_and_goes_with_them(visits: Visits, upload: Path, place: Path) -> None:
    visit = visits.take("ann", str(upload))
    (kept,) = (visit.folder / "videos").iterdir()
    assert kept.name == "my_clip.mp4" and kept.read_bytes() == upload.read_bytes()
    before = kept.stat().st_mtime_ns
    assert visits.take("ann", str(upload)) is visit and kept.stat().st_mtime_ns == before, "asked again: nothing moves"
    visits.take("bob", str(upload))
    visits.leave("ann")
    assert not visit.folder.exists() and upload.exists(), "bob has the same upload"
    (place / "4567ef").mkdir()  # one that nobody asked about
    visits.leave("bob")
    assert sorted(p.name for p in place.iterdir()) == ["examples", "guests"] and not list((place / "guests").iterdir())
    visits.leave("bob")


def test_a_refused_clip_leaves_the_one_before(visits: Visits, upload: Path, tmp_path: Path) -> None:
    visit = visits.take("ann", str(upload))
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(DataError, match=r"^empty\.mp4: is empty"):
        visits.take("ann", str(tmp_path / "empty.mp4"))
    assert len(list((visit.folder / "videos").iterdir())) == 1 and upload.exists()


def test_what_a_killed_demo_left_goes_with_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    code = "import os, verl_ext.demo.visits as v\nwith v.scratch() as f:\n print(f, flush=True); os._exit(9)"
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    left = Path(killed.stdout.strip())
    assert killed.returncode == 9 and left.is_dir(), killed.stderr
    with scratch() as ours, scratch() as other:
        assert not left.exists() and ours.is_dir() and other.is_dir() and ours != other
    assert not list(tmp_path.iterdir())
