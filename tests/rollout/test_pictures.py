"""Pictures that many dialogues share: read once, within a bound, by any number of threads."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import rollout.pictures as pictures
from rollout.errors import DataError
from rollout.frames import load_frame_resized
from rollout.messages import FramePart
from rollout.pictures import DIGEST, Picture, PictureStore, mark
from rollout.types import Clip

SIDE = 8
BYTES = SIDE * SIDE * 3


@pytest.fixture
def clip(tmp_path: Path) -> Clip:
    names = [tmp_path / f"{t}.png" for t in range(6)]
    for t, name in enumerate(names):
        noise = np.random.default_rng(t).integers(0, 255, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(noise).save(name)
    return Clip("clip", tuple(map(str, names)), 20, 30)


def at(clip: Clip, *frames: int, side: int = SIDE) -> list[Picture]:
    return [Picture(clip, t, side, side) for t in frames]


def test_pictures_are_those_of_the_files_and_are_read_once(clip: Clip) -> None:
    store = PictureStore(1 << 20)
    for _ in range(3):
        for picture, image in zip(at(clip, 2, 0, 2), store.get(at(clip, 2, 0, 2)), strict=True):
            assert image.tobytes() == load_frame_resized(clip, picture.frame, SIDE, SIDE).tobytes()
    assert store.read == 2 and store.asked == 9 and store.seconds > 0
    parts = [FramePart(1, SIDE, SIDE), FramePart(1, 2 * SIDE, SIDE)]
    assert [image.size for image in store.of_clip(clip, parts)] == [(SIDE, SIDE), (SIDE, 2 * SIDE)]
    assert store.read == 4, "another size is another picture"


def test_the_oldest_go_when_it_is_full(clip: Clip) -> None:
    store = PictureStore(2 * BYTES)
    store.get(at(clip, 0, 1))
    store.get(at(clip, 0))
    store.get(at(clip, 2))  # frame 1 is the least recently used
    assert store.read == 3
    store.get(at(clip, 0, 2))
    assert store.read == 3
    store.get(at(clip, 1))
    assert store.read == 4


def test_reading_ahead_drops_what_is_not_asked_for_and_never_what_is(clip: Clip) -> None:
    store = PictureStore(3 * BYTES)
    store.get(at(clip, 5))
    store.read_ahead(at(clip, 0, 1, 2, 3, 4))  # three fit
    for t in (0, 1, 2):
        store.get(at(clip, t))
    assert store.read == 4
    store.get(at(clip, 3, 4, 5))
    assert store.read == 7
    assert len(PictureStore(0).get(at(clip, 0, 1))) == 2, "also without any room"


def test_threads_that_want_one_picture_share_one_reading(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    store, opened, gate = PictureStore(1 << 20), [], threading.Event()

    def slow(*args: Any) -> Image.Image:
        opened.append(args)
        assert gate.wait(10)
        return load_frame_resized(*args)

    monkeypatch.setattr(pictures, "load_frame_resized", slow)
    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(store.get, at(clip, 3)) for _ in range(4)]
        gate.set()
        found = [w.result(timeout=10)[0] for w in waiting]
    assert len(opened) == 1 and all(image is found[0] for image in found)


def test_everyone_who_asks_hears_of_a_bad_file_and_a_mended_one_is_read(clip: Clip) -> None:
    store = PictureStore(1 << 20)
    file = Path(clip.frames[4])
    good, _ = file.read_bytes(), file.write_bytes(b"no picture")
    store.read_ahead(at(clip, 4))
    for _ in range(2):
        with pytest.raises(DataError, match=r"clip clip, frame 4, file .*4\.png"):
            store.get(at(clip, 0, 4))
    file.write_bytes(good)
    assert store.get(at(clip, 4))[0].size == (SIDE, SIDE)


def test_a_mark_is_equal_for_equal_pixels_alone_and_travels() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (4, 8, 3), dtype=np.uint8)
    one, same = mark(Image.fromarray(noise)), mark(Image.fromarray(noise.copy()))
    turned, other = mark(Image.fromarray(noise.reshape(8, 4, 3))), mark(Image.fromarray(255 - noise))
    names = [image.info[DIGEST] for image in (one, same, turned, other)]
    assert names[0] == names[1] and len(set(names)) == 3 and len(names[0]) == 16
    assert pickle.loads(pickle.dumps(one)).info[DIGEST] == names[0]
