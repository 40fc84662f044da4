"""Frame choice, frame sizes, and frames on disk that are not what the clip says."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rollout import PixelBudget, evenly_spaced, load_frame_resized, load_frames, smart_size
from rollout.errors import DataError, ProtocolError
from rollout.frames import UNIT_PIXELS, keyframe_congruent
from tests.rollout.helpers import write_clip


def test_evenly_spaced_includes_both_ends_and_never_repeats() -> None:
    for span in range(1, 60):
        for n in range(2, 25):
            frames = evenly_spaced(7, 6 + span, n)
            assert (frames[0], frames[-1]) == (7, 6 + span)
            assert len(frames) == len(set(frames)) == min(n, span)
            gaps = np.diff(frames)
            assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize(
    ("total", "n", "expected"),
    [
        (21, 20, [*range(19), 20]),
        (24, 20, [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 12, 13, 14, 15, 16, 18, 19, 20, 21, 23]),
        (39, 20, [*range(0, 39, 2)]),
        (100, 16, [0, 6, 13, 19, 26, 33, 39, 46, 52, 59, 66, 72, 79, 85, 92, 99]),
        (30, 8, [0, 4, 8, 12, 16, 20, 24, 29]),
        (9, 8, [0, 1, 2, 3, 4, 5, 6, 8]),
        (57, 5, [0, 14, 28, 42, 56]),
        (123, 15, [0, 8, 17, 26, 34, 43, 52, 60, 69, 78, 87, 95, 104, 113, 122]),  # 61 by integer division
        (12, 1, [0]),
        (3, 5, [0, 1, 2]),
        (5, 0, []),
    ],
)
def test_the_published_choice_truncates(total: int, n: int, expected: list[int]) -> None:
    """Worked by the released code (its golden totals' README)."""
    assert evenly_spaced(0, total - 1, n) == expected


def test_short_ranges_are_taken_whole() -> None:
    assert evenly_spaced(3, 8, 5, spare=1) == [3, 4, 5, 6, 7, 8]
    assert evenly_spaced(3, 8, 5) == [3, 4, 5, 6, 8]
    assert evenly_spaced(3, 9, 5, spare=1) == [3, 4, 6, 7, 9]
    assert evenly_spaced(0, 0, 0, spare=1) == []
    with pytest.raises(ProtocolError, match=r"\[5, 4\]"):
        evenly_spaced(5, 4, 3)


@pytest.mark.parametrize(
    ("height", "width", "units", "factor", "expected"),
    [
        (480, 854, 32, 32, (96, 192)),  # the paper's low resolution on a 480p clip: 18 tokens
        (480, 854, 128, 32, (224, 416)),
        (480, 854, 256, 32, (320, 576)),
        (720, 1280, 512, 32, (448, 832)),
        (480, 854, 128, 28, (224, 420)),
        (96, 128, 256, 32, (96, 128)),  # never enlarged just because the budget allows it
        (30, 30, 256, 32, (64, 64)),  # at least four units
        (1000, 20, 32, 32, (1120, 32)),  # a sliver overruns its budget: Qwen's rule, one cell is the least width
    ],
)
def test_smart_size_examples(height: int, width: int, units: int, factor: int, expected: tuple[int, int]) -> None:
    assert smart_size(height, width, units, factor) == expected


def test_smart_size_keeps_budget_grid_and_aspect() -> None:
    rng = np.random.default_rng(1)
    for _ in range(2000):
        height, width = (int(v) for v in rng.integers(40, 2000, 2))
        units, factor = int(rng.choice([32, 128, 256, 512])), int(rng.choice([28, 32]))
        h, w = PixelBudget(units).size(height, width, factor)
        assert h % factor == w % factor == 0 and min(h, w) > 0
        if max(height, width) / min(height, width) < 8:
            assert h * w <= units * UNIT_PIXELS
        # both sides are within one cell of a common scale
        scale = math.sqrt(h * w / (height * width))
        assert abs(h - height * scale) <= 2 * factor or abs(w - width * scale) <= 2 * factor


def test_smart_size_equals_the_image_processors_rule() -> None:
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    rng = np.random.default_rng(2)
    for _ in range(1000):
        height, width = (int(v) for v in rng.integers(60, 1500, 2))
        units, factor = int(rng.choice([16, 32, 128, 256])), int(rng.choice([28, 32]))
        limits = {"min_pixels": 4 * UNIT_PIXELS, "max_pixels": units * UNIT_PIXELS}
        assert smart_size(height, width, units, factor) == smart_resize(height, width, factor, **limits)


def test_keyframe_congruent() -> None:
    areas = np.zeros(17)
    areas[[3, 4, 9, 12, 13]] = [5, 50, 7, 6, 40]
    seen = set()
    for seed in range(60):
        frames, keyframe = keyframe_congruent(areas, 6, np.random.default_rng(seed))
        seen.add(keyframe)
        step = math.ceil(17 / 5)
        assert keyframe in frames
        assert frames == [t for t in range(17) if t % step == keyframe % step]
        assert len(frames) <= 6
    assert seen == {3, 4, 9, 12, 13}  # each of the five largest, and no other
    with pytest.raises(ProtocolError, match="0 frames"):
        keyframe_congruent([], 6, np.random.default_rng(0))


def test_frames_are_loaded_in_order_as_rgb(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "c", num_frames=4)
    Image.new("L", (128, 96), 200).save(clip.frames[2])
    frames = load_frames(clip, [2, 0])
    assert [f.mode for f in frames] == ["RGB", "RGB"]
    assert [f.getpixel((5, 5)) for f in frames] == [(200, 200, 200), (0, 0, 0)]
    assert load_frame_resized(clip, 2, 32, 64).size == (64, 32)


def test_bad_frames_name_clip_frame_and_file(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "ducks", num_frames=5)
    Path(clip.frames[1]).unlink()
    Path(clip.frames[2]).write_bytes(b"\xff\xd8\xff\xe0 not really")
    whole = Path(clip.frames[3]).read_bytes()
    Path(clip.frames[3]).write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (64, 96)).save(clip.frames[4])
    for frame, found in [(1, "does not exist"), (2, "cannot be read"), (3, "cannot be read"), (4, "is 96x64")]:
        with pytest.raises(DataError) as error:
            load_frames(clip, [0, frame])
        for part in (f"clip ducks, frame {frame}, file {clip.frames[frame]}", found):
            assert part in str(error.value)
    with pytest.raises(DataError, match="the clip says 97x128"):
        load_frames(replace(clip, height=97), [0])
    with pytest.raises(ProtocolError, match=r"frame 5 asked for, the clip has 0\.\.4"):
        load_frames(clip, [5])
