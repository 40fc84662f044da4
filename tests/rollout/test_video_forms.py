"""Videos as phones, screen recorders and cutting tools write them: turned, uneven, with stamps that are wrong."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rollout.errors import DataError
from rollout.video import video_facts, video_frame, video_times
from tests.videos import OPTIONS, index_in, write_video

EVEN = [*range(0, 1600, 40)]
"""40 frames, 25 a second."""


def corners(_: int) -> NDArray[np.uint8]:
    """Left half red, right half blue, the top quarter white."""
    out = np.zeros((48, 64, 3), np.uint8)
    out[:, :32], out[:, 32:] = (220, 20, 20), (20, 20, 220)
    out[:12] = 255
    return out


def set_matrix(path: Path, a: int, b: int, c: int, d: int) -> None:
    """The linear part of the track header's matrix: x' = a x + c y, y' = b x + d y."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    data[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((1, 0, 0, 1), lambda p: p),
        ((0, 1, -1, 0), lambda p: np.rot90(p, 3)),  # a phone held upright
        ((-1, 0, 0, -1), lambda p: np.rot90(p, 2)),
        ((0, -1, 1, 0), lambda p: np.rot90(p, 1)),
        ((-1, 0, 0, 1), lambda p: p[:, ::-1]),  # a front camera's mirror
        ((1, 0, 0, -1), lambda p: p[::-1]),
        ((0, 1, 1, 0), lambda p: p.transpose(1, 0, 2)),
        ((0, -1, -1, 0), lambda p: np.rot90(p, 2).transpose(1, 0, 2)),
    ],
)
def test_pixels_are_as_a_player_shows_them(matrix: tuple[int, int, int, int], shown: Any, tmp_path: Path) -> None:
    path = write_video(tmp_path / "c.mp4", EVEN[:6], picture=corners)
    set_matrix(path, *matrix)
    want, facts = shown(corners(0)), video_facts(path)
    for t in (4, 0, 5):
        found = np.asarray(video_frame(path, t))
        assert found.shape == want.shape == (facts.height, facts.width, 3)
        assert np.abs(found.astype(int) - want).mean() < 12


def test_a_matroska_rotation_counts_too(tmp_path: Path) -> None:
    path = write_video(tmp_path / "c.mkv", EVEN[:6], picture=corners, turned=90)
    found = np.asarray(video_frame(path, 3)).astype(int)
    assert np.abs(found - np.rot90(corners(0), 1)).mean() < 12


def test_an_angle_that_no_frame_can_have_is_refused_when_opened(tmp_path: Path) -> None:
    path = write_video(tmp_path / "c.mp4", EVEN[:6])
    set_matrix(path, 1, 1, -1, 1)
    with pytest.raises(DataError, match=r"c\.mp4: .*no multiple of 90 degrees; extract its frames"):
        video_facts(path)


def read_shuffled(path: Path) -> list[int]:
    count = video_facts(path).num_frames
    order = np.random.default_rng(0).permutation(count).tolist()
    found = {t: index_in(video_frame(path, t)) for t in [*order, *reversed(order)]}
    return [found[t] for t in range(count)]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
def test_uneven_times(suffix: str, tmp_path: Path) -> None:
    stamps = np.cumsum(np.random.default_rng(1).integers(5, 900, 40)).tolist()
    path = write_video(tmp_path / f"screen.{suffix}", stamps)
    assert read_shuffled(path) == [*range(40)]
    assert np.abs(video_times(path) - (np.array(stamps) - stamps[0]) / 1000).max() < 1e-9


def in_coding_order(packet: Any) -> None:
    """As tools do that copy a stream out of an AVI."""
    packet.pts = packet.dts


def twice(packet: Any) -> None:
    """Two frames of one time."""
    step = round(0.04 / float(packet.time_base))
    packet.pts -= step if packet.pts > 20 * step else 0
    packet.dts -= 3 * step


@pytest.mark.parametrize(
    ("name", "codec", "more"),
    [
        ("b_frames.avi", "libx264", {}),
        ("divx.avi", "mpeg4", {"options": {"bf": "2"}}),
        ("camera.avi", "mjpeg", {}),
        ("copied.mkv", "libx264", {"on_packet": in_coding_order}),
        ("twice.mkv", "libx264", {"on_packet": twice, "options": OPTIONS | {"bf": "0"}}),
        ("vp8.webm", "libvpx", {"options": {"auto-alt-ref": "1", "lag-in-frames": "16", "b": "100k"}}),
    ],
)
def test_every_frame_is_found_whatever_the_stamps_say(name: str, codec: str, more: Any, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, EVEN, codec=codec, **more)
    assert read_shuffled(path) == [*range(40)]
    assert np.allclose(video_times(path), np.arange(40) / 25)


def test_an_edit_list_that_begins_between_key_frames(tmp_path: Path) -> None:
    """A phone's quick trim keeps the frames before the cut in the file and never shows them."""

    def earlier(packet: Any) -> None:
        packet.pts -= 280
        packet.dts -= 280

    path = write_video(tmp_path / "cut.mp4", EVEN, on_packet=earlier, muxer={"avoid_negative_ts": "disabled"})
    assert read_shuffled(path) == [*range(7, 40)] and np.allclose(video_times(path), np.arange(33) / 25)


def test_a_video_cut_without_its_first_key_frame_begins_at_the_next(tmp_path: Path) -> None:
    import av

    whole, path = write_video(tmp_path / "whole.mp4", EVEN), tmp_path / "cut.mkv"
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [p for p in source.demux(source.streams.video[0]) if p.size]
        for packet in packets[3:]:
            packet.stream = stream
            target.mux(packet)
    found = read_shuffled(path)
    assert found == [*range(found[0], 40)] and 0 < found[0] <= 12


def test_doubtful_stamps_of_a_damaged_video_are_refused_when_opened(tmp_path: Path) -> None:
    path = write_video(tmp_path / "c.avi", EVEN)
    data = bytearray(path.read_bytes())
    start = data.index(b"movi") + 1500
    data[start : start + 400] = bytes(np.random.default_rng(0).integers(0, 256, 400).astype(np.uint8))
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"c\.avi: .*(not to be trusted|cannot be read)"):
        video_facts(path)
