"""Pictures, run lengths and the texts of a reply."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from data_construction.cot.fields import fields_check, fields_schema
from data_construction.cot.pictures import FrameStore, Picture, picture
from data_construction.cot.runs import area_and_centre, boxes_at, tight_box, union_areas
from data_construction.vlm import BadReplyError
from rollout.errors import DataError
from rollout.types import RLE, Clip, Masklets


def decoded(p: Picture) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(H, W, 3) RGB, as whoever receives it sees it."""
    raw = base64.b64decode(p.url.removeprefix("data:image/jpeg;base64,"))
    return cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]  # type: ignore[no-any-return]


def clip_of(folder: Path, image: Image.Image, name: str = "0.jpg", **save: Any) -> Clip:
    image.save(folder / name, **save)
    return Clip("c", (str(folder / name),), image.height, image.width)


def gradient(height: int, width: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([255 * x / width, 255 * y / height, 0 * x + 90], -1).astype(np.uint8))


@pytest.mark.parametrize("name", ["0.jpg", "0.png"])
@pytest.mark.parametrize("size", [(96, 128), (40, 60), (192, 256)])
def test_a_picture_is_the_frame_at_the_asked_size(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    image = gradient(480, 640)
    got = decoded(picture(FrameStore(), clip_of(tmp_path, image, name, quality=95), 0, *size))
    wanted = np.asarray(image.resize(size[::-1], Image.Resampling.BOX)).astype(int)
    assert got.shape == (*size, 3) and np.abs(got - wanted).mean() < 3


def test_boxes_are_drawn_where_they_are_and_leave_the_stored_frame_alone(tmp_path: Path) -> None:
    clip, frames = clip_of(tmp_path, Image.new("RGB", (200, 100), (20, 60, 200)), quality=95), FrameStore()
    marked = decoded(picture(frames, clip, 0, 100, 100, [(100, 20, 179, 79)])).astype(int)
    red = (marked[..., 0] > 150) & (marked[..., 2] < 120)
    rows, columns = np.nonzero(red)
    assert abs(columns.min() - 50) <= 2 and abs(columns.max() - 89) <= 2  # The width is halved.
    assert abs(rows.min() - 20) <= 2 and abs(rows.max() - 79) <= 2
    assert not red[30:70, 56:84].any()
    plain = decoded(picture(frames, clip, 0, 100, 100)).astype(int)
    assert not ((plain[..., 0] > 150) & (plain[..., 2] < 120)).any()


def test_a_stored_frame_is_not_read_again_and_the_store_stays_small(tmp_path: Path) -> None:
    folders = [tmp_path / str(n) for n in range(4)]
    for folder in folders:
        folder.mkdir()
    clips = [clip_of(folder, gradient(64, 64)) for folder in folders]
    frames = FrameStore(limit=2 * 32 * 32 * 3)
    for clip in clips[:2]:
        frames.get(clip, 0, 32, 32)
        Path(clip.frames[0]).unlink()
    frames.get(clips[0], 0, 32, 32)
    frames.get(clips[2], 0, 32, 32)  # Pushes the one out that was not used for longest.
    frames.get(clips[0], 0, 32, 32)
    with pytest.raises(DataError, match="cannot be read"):
        frames.get(clips[1], 0, 32, 32)


@pytest.mark.parametrize("harm", ["missing", "cut", "text", "size"])
def test_a_frame_that_is_not_right_is_named(tmp_path: Path, harm: str) -> None:
    clip = clip_of(tmp_path, gradient(100, 80))
    path = Path(clip.frames[0])
    if harm == "missing":
        path.unlink()
    elif harm == "size":
        clip = Clip("c", clip.frames, 100, 90)
    else:
        path.write_bytes(path.read_bytes()[:900] if harm == "cut" else b"hello")
    with pytest.raises(DataError, match=rf"clip c, frame 0, file {re.escape(str(path))}"):
        picture(FrameStore(), clip, 0, 32, 32)


def test_a_rotated_jpeg_is_shown_as_it_is_stored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: turned by 90 degrees. Masks were drawn on what is stored.
    clip = clip_of(tmp_path, gradient(64, 128), exif=exif)
    assert decoded(picture(FrameStore(), clip, 0, 64, 128)).shape == (64, 128, 3)


def masks() -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    rng = np.random.default_rng(0)
    out = [(rng.random(tuple(rng.integers(1, 40, 2))) < rng.random()).astype(np.uint8) for _ in range(100)]
    return [*out, np.zeros((7, 9), np.uint8), np.ones((9, 7), np.uint8)]


def packed(mask: np.ndarray[Any, Any], text: bool = True) -> RLE:
    rle = coco_mask.encode(np.asfortranarray(mask))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode() if text else rle["counts"]}


def test_run_lengths_tell_what_pixels_tell() -> None:
    for n, mask in enumerate(masks()):
        rle = packed(mask, text=n % 2 == 0)
        rows, columns = np.nonzero(mask)
        area, x, y = area_and_centre(rle)
        assert area == mask.sum()
        if not area:
            assert tight_box(rle) is None and np.isnan([x, y]).all()
            continue
        assert (x, y) == (columns.sum() / area, rows.sum() / area)
        assert tight_box(rle) == (columns.min(), rows.min(), columns.max(), rows.max())


def test_overlapping_objects_count_once() -> None:
    rng = np.random.default_rng(1)
    objects = [[(rng.random((20, 30)) < 0.3).astype(np.uint8) for _ in range(3)] for _ in range(2)]
    rles = tuple(tuple(packed(m) if t or o else None for t, m in enumerate(some)) for o, some in enumerate(objects))
    truth = Masklets(20, 30, rles, 3)
    assert union_areas(truth).tolist() == truth.areas().tolist()
    assert len(boxes_at(truth, 0)) == 1 and len(boxes_at(truth, 1)) == 2
    assert union_areas(Masklets(20, 30, (), 3)).tolist() == [0, 0, 0]


NAMES = ("summary", "target")


def test_texts_are_tidied_and_bad_ones_turned_down() -> None:
    check = fields_check(NAMES, 40)
    value = {"summary": " Step 1: a dog\n runs. ", "target": 'It is the "left" one.', "more": 1}
    assert check(value) == {"summary": "a dog runs.", "target": "It is the 'left' one."}
    sound = {"summary": "a", "target": "b"}
    for key, bad, reason in [
        ("target", None, "missing_field"),
        ("target", ["b"], "missing_field"),
        ("target", "Step 3: ", "missing_field"),
        ("summary", "x" * 41, "too_long"),
        ("summary", "now </think> out", "control_text"),
        ("summary", "the [SEG] token", "control_text"),
        ("summary", "half a \ud83d pair", "control_text"),
        ("summary", "a \x07 bell", "control_text"),
    ]:
        with pytest.raises(BadReplyError) as error:
            check(sound | {key: bad})
        assert error.value.reason == reason


def test_the_schema_takes_what_the_check_takes() -> None:
    schema = fields_schema(NAMES, 40)
    pattern = re.compile(schema["properties"]["summary"]["pattern"])
    assert schema["required"] == list(NAMES) and schema["additionalProperties"] is False
    for text in ("A dog runs, 3 s long (left).", "x" * 40, "Füße, 狗"):
        assert pattern.search(text) and fields_check(NAMES, 40)({"summary": text, "target": text})
    for text in ("", "x" * 41, "a <b", "[SEG]", "a\nb", 'a "b"'):
        assert not pattern.search(text)
