"""Frames of a video by index: exact in any order, few files open, faults named."""

from __future__ import annotations

import multiprocessing
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rollout import video
from rollout.errors import DataError
from rollout.frames import load_frame, load_frame_resized
from rollout.types import Clip
from rollout.video import split_frame_path, video_facts, video_frame
from tests.videos import index_in, pattern, write_video

FRAMES = 40


def write(
    path: Path, frames: int = FRAMES, codec: str = "libx264", first: int = 0, drop: tuple[int, ...] = (), x264: str = ""
) -> Path:
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=Fraction(25))
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.gop_size = 12
        if codec == "libx264":
            stream.options = {"crf": "10", "preset": "veryfast", "bf": "3", "threads": "1", "x264-params": x264}
        for t in range(frames):
            if t in drop:  # A gap in time: frame 7 of the file is then not at 7/25 s.
                continue
            frame = av.VideoFrame.from_ndarray(pattern(first + t), format="rgb24")
            frame.pts, frame.time_base = t, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("codec", "suffix", "x264"),
    [
        ("libx264", "mp4", ""),
        ("mpeg4", "mp4", ""),
        ("libx264", "mkv", ""),
        ("libx264", "mp4", "open-gop=1:b-adapt=0"),
        ("libx264", "mkv", "open-gop=1:b-adapt=0"),
        ("libx264", "mov", "bframes=0"),
    ],
)
def test_any_order_gives_the_same_frames(codec: str, suffix: str, x264: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"clip.{suffix}", codec=codec, x264=x264)
    facts = video_facts(path)
    assert (facts.num_frames, facts.height, facts.width, facts.fps) == (FRAMES, 48, 64, 25.0)
    order = np.random.default_rng(0).permutation(FRAMES).tolist()
    for t in [*range(FRAMES), *order, *reversed(range(FRAMES)), 5, 5, 39, 0]:
        assert index_in(video_frame(path, t)) == t
    forward = [np.asarray(video_frame(path, t)) for t in range(FRAMES)]
    assert all(np.array_equal(np.asarray(video_frame(path, t)), forward[t]) for t in order)


def test_a_gap_in_time_does_not_shift_the_index(tmp_path: Path) -> None:
    path = write(tmp_path / "gap.mp4", drop=(3, 4, 20))
    kept = [t for t in range(FRAMES) if t not in (3, 4, 20)]
    assert video_facts(path).num_frames == len(kept)
    assert [index_in(video_frame(path, i)) for i in (30, 3, 19, 0, len(kept) - 1)] == [
        kept[i] for i in (30, 3, 19, 0, len(kept) - 1)
    ]


def test_few_files_stay_open_and_a_new_file_is_noticed(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{n}.mp4", frames=8, first=n) for n in range(7)]
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        for n, path in enumerate(paths):
            assert index_in(video_frame(path, 3)) == n + 3
    assert len(os.listdir("/proc/self/fd")) <= before + video.OPEN_VIDEOS
    write(paths[0], frames=8, first=30)
    assert index_in(video_frame(paths[0], 3)) == 33


def read_in_child(path: str, t: int) -> int:
    return index_in(video_frame(path, t))


def test_a_forked_child_does_not_disturb_its_parent(tmp_path: Path) -> None:
    path = str(write(tmp_path / "clip.mp4"))
    assert index_in(video_frame(path, 6)) == 6
    with multiprocessing.get_context("fork").Pool(2) as pool:
        children = pool.starmap_async(read_in_child, [(path, t) for t in (30, 2, 17, 39)])
        mine = [index_in(video_frame(path, t)) for t in (7, 8, 9, 10)]
        assert children.get(timeout=60) == [30, 2, 17, 39] and mine == [7, 8, 9, 10]


def test_load_frame_reads_both_kinds(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4")
    clip = Clip("clip", tuple(f"{path}#{t}" for t in range(0, FRAMES, 2)), 48, 64)
    assert index_in(load_frame(clip, 9)) == 18
    assert load_frame_resized(clip, 9, 24, 32).size == (32, 24)
    with pytest.raises(DataError, match=r"clip clip, frame 0, file .*clip\.mp4#0: is 48x64 .* the clip says 50x64"):
        load_frame(Clip("clip", clip.frames, 50, 64), 0)


def test_paths() -> None:
    assert split_frame_path("a/b.mp4#12") == ("a/b.mp4", 12)
    assert split_frame_path(Path("a/B.MKV#0")) == ("a/B.MKV", 0)
    for image in ("a/b.jpg", "a/b#3.jpg", "a/b.jpg#3", "a/b.mp4", "a/b.mp4#x", "a/b.mp4#-1"):
        assert split_frame_path(image) is None


def test_faults_name_file_and_frame(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4")
    with pytest.raises(DataError, match=r"clip\.mp4: frame 40 asked for, the video has 0\.\.39"):
        video_frame(path, 40)
    with pytest.raises(DataError, match=r"gone\.mp4: the file does not exist"):
        video_facts(tmp_path / "gone.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(DataError, match=r"text\.mp4: cannot be read as a video"):
        video_facts(tmp_path / "text.mp4")
    (tmp_path / "cut.mp4").write_bytes(path.read_bytes()[:600])
    clip = Clip("c7", (f"{tmp_path / 'cut.mp4'}#0",), 48, 64)
    with pytest.raises(DataError, match=r"clip c7, frame 0, file .*cut\.mp4#0"):
        load_frame(clip, 0)


@pytest.mark.parametrize("slices", [1, 2, 4])
def test_frames_in_slices_are_whole(tmp_path: Path, slices: int) -> None:
    """As cameras write them, and every H.264 encoder that shares a frame among threads."""
    options = {"preset": "veryfast", "crf": "10", "threads": "1", "x264-params": f"slices={slices}"}
    stamps = [40 * t for t in range(FRAMES)]
    path = write_video(tmp_path / "clip.mp4", stamps, options=options, picture=lambda t: pattern(t).repeat(4, axis=0))
    assert [index_in(video_frame(path, t)) for t in (3, 0, FRAMES - 1)] == [3, 0, FRAMES - 1]


def test_damaged_frames_are_an_error_not_a_picture(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4")
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    rng = np.random.default_rng(0)
    for at in range(start + 900, start + 1200):
        data[at] = int(rng.integers(256))
    path.write_bytes(bytes(data))
    refused = []
    for t in range(FRAMES):
        try:
            assert index_in(video_frame(path, t)) == t
        except DataError as e:
            assert "clip.mp4" in str(e)
            refused.append(t)
    assert 0 < len(refused) < FRAMES
