"""J and F: equal to the plain definition to the last bit, from masks and from RLE, at awkward sizes."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rewards.metrics import jf_masks, jf_rles, score_clip
from rewards.metrics.boundary import boundary_radius, growth, half_widths
from rewards.metrics.jf import Workspace
from rewards.metrics.plain import plain_f, plain_j
from rollout.errors import DataError
from tests.eval.clips import disk, noisy_masks, rle

SIZES = [(1, 1), (1, 70), (70, 1), (33, 200), (48, 63), (48, 64), (48, 65), (64, 48), (130, 129), (240, 427)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_equals_plain_definition_to_the_last_bit(height: int, width: int) -> None:
    pred, gt = (noisy_masks(14, height, width, seed) for seed in (1, 2))
    pred[-3:] = gt[-3:] & ~noisy_masks(3, height, width, 3)  # some frames that nearly agree
    j = [plain_j(p, g) for p, g in zip(pred, gt, strict=True)]
    f = [plain_f(p, g) for p, g in zip(pred, gt, strict=True)]
    column_major = tuple(np.asfortranarray(m.transpose(1, 2, 0)).transpose(2, 0, 1) for m in (pred, gt))
    for got in (
        jf_masks(pred, gt),
        jf_masks(*column_major),
        jf_masks(pred * np.float32(0.5), gt.astype(np.int64) * 255),
        jf_rles([rle(m) for m in pred], [rle(m) for m in gt]),
    ):
        np.testing.assert_array_equal(got[0], j)
        np.testing.assert_array_equal(got[1], f)


@pytest.mark.parametrize(("height", "width", "radius"), [(700, 1200, 12), (1440, 2550, 24), (1500, 2600, 25)])
def test_wide_disks(height: int, width: int, radius: int) -> None:
    """Up to the widest disk of the quick kernels, and the first that is too wide for them."""
    pred, gt = (np.zeros((3, height, width), bool) for _ in range(2))
    pred[0, :90, -200:], gt[0, :99, -190:] = True, True  # along the borders
    pred[1], gt[1] = disk(400, 300, 150, height, width), disk(410, 322, 151, height, width)
    pred[2, 5, 7] = gt[2, 5 + radius - 1, 7] = True  # a lone pixel, as far off as still counts
    assert boundary_radius(height, width) == radius
    expected = [plain_f(p, g) for p, g in zip(pred, gt, strict=True)]
    assert jf_masks(pred, gt)[1].tolist() == expected
    assert jf_rles([rle(m) for m in pred], [rle(m) for m in gt])[1].tolist() == expected


def test_radius_beyond_one_word() -> None:
    """Frames larger than 8K have a disk wider than 64 pixels."""
    cv2 = pytest.importorskip("cv2")
    from rewards.metrics import wide_kernels

    rng = np.random.default_rng(0)
    a, b = (rng.random((150, 400)) < 0.0006 for _ in range(2))
    packed = [np.packbits(np.pad(m, ((0, 0), (0, 48))), axis=1, bitorder="little").view(np.uint64) for m in (a, b)]
    box = (0, 149, 0, packed[0].shape[1] - 1)
    for radius in (63, 64, 65, 127, 130):
        x = np.arange(-radius, radius + 1)
        structure = (x[:, None] ** 2 + x[None, :] ** 2 <= radius**2).astype(np.uint8)
        expected = int((a & cv2.dilate(b.astype(np.uint8), structure).astype(bool)).sum())
        assert wide_kernels.count_near(packed[0], box, packed[1], box, radius, half_widths(radius)) == expected


@pytest.mark.parametrize("size", [(480, 854), (64, 64), (65, 128)])
def test_fuzz_against_the_plain_definition(size: tuple[int, int]) -> None:
    """Many batches, disks and bars at every border; the same memory used again and again."""
    rng = np.random.default_rng(sum(size))
    pred, gt = np.zeros((2, 60, *size), bool)
    for t in range(60):
        x, y, r = rng.uniform(-20, size[1] + 20), rng.uniform(-20, size[0] + 20), rng.uniform(1, 80)
        gt[t] = disk(x, y, r, *size)
        pred[t] = disk(x + rng.normal(0, 6), y + rng.normal(0, 6), r, *size) | (rng.random(size) < 0.0004)
        gt[t, :, int(rng.integers(size[1]))] |= bool(rng.integers(2))
    f = [plain_f(p, g) for p, g in zip(pred, gt, strict=True)]
    j = [plain_j(p, g) for p, g in zip(pred, gt, strict=True)]
    from_masks, from_rles = jf_masks(pred, gt), jf_rles([rle(m) for m in pred], [rle(m) for m in gt])
    for got in (from_masks, from_rles):
        assert (got[0].tolist(), got[1].tolist()) == (j, f)


def test_threads_do_not_share_memory() -> None:
    clips = [noisy_masks(40, 96, 130, seed) for seed in range(6)]
    expected = [jf_masks(a, b) for a, b in zip(clips, reversed(clips), strict=True)]
    with ThreadPoolExecutor(3) as pool:
        for _ in range(4):
            got = pool.map(jf_masks, clips, reversed(clips))
            for one, other in zip(got, expected, strict=True):
                np.testing.assert_array_equal(one, other)


def test_a_refused_clip_leaves_nothing_behind() -> None:
    mask = disk(20, 20, 9)
    with pytest.raises(DataError):
        jf_rles([rle(mask), {**rle(mask), "counts": "??"}], [rle(mask)] * 2)
    assert [x.tolist() for x in jf_rles([None, rle(mask)], [None, rle(mask)])] == [[1, 1], [1, 1]]


def test_definition_at_its_edges() -> None:
    empty, full = np.zeros((1, 20, 30), bool), np.ones((1, 20, 30), bool)
    small = disk(10, 10, 4, 20, 30)[None]
    for pred, gt, j, f in (
        (empty, empty, 1, 1),
        (empty, small, 0, 0),
        (small, empty, 0, 0),
        (small, small, 1, 1),
        (full, empty, 0, 1),  # neither has a boundary inside the frame
        (full, full, 1, 1),
    ):
        assert [float(x[0]) for x in jf_masks(pred, gt)] == [j, f]
    assert [x.tolist() for x in jf_rles([None, None], [None, []])] == [[1, 1], [1, 1]]


def test_objects_are_merged_by_or() -> None:
    a, b = disk(20, 20, 9), disk(26, 20, 9)
    both = rle(a | b)
    j, f = jf_rles([both, [rle(a), None, rle(b)]], [[rle(a), rle(b)], both])
    assert j.tolist() == [1, 1] and f.tolist() == [1, 1]


def test_uncompressed_and_byte_counts() -> None:
    mask = disk(20, 20, 9)
    compressed = rle(mask)
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat])))
    plain = {"size": compressed["size"], "counts": np.diff([0, *edges, flat.size]).tolist()}
    as_bytes = {**compressed, "counts": compressed["counts"].encode()}
    assert jf_rles([plain, as_bytes], [compressed] * 2)[0].tolist() == [1, 1]


def good() -> dict[str, object]:
    return dict(rle(disk(20, 20, 9)))


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({**good(), "size": [48, 63]}, "48x63"),
        ({**good(), "size": None}, "size"),
        ({**good(), "counts": "not RLE at all {}"}, "do not decode"),
        ({**good(), "counts": "\u00e9\u00e9"}, "do not decode"),
        ({**good(), "counts": good()["counts"][:-1]}, "RLE"),  # type: ignore[index]
        ({**good(), "counts": "oooooooooooooo0"}, "do not decode"),
        ({**good(), "counts": [3, -1, 48 * 64 - 2]}, "do not fill"),
        ({**good(), "counts": [2**62, 2**62, 2**62, 2**62 + 48 * 64]}, "do not fill"),
        ({**good(), "counts": []}, "do not fill"),
        ({**good(), "counts": 7}, "count string"),
    ],
)
def test_bad_rle_names_the_frame(bad: dict[str, object], says: str) -> None:
    with pytest.raises(DataError, match="frame 1") as caught:
        score_clip([None, bad, None], [good()] * 3, where="clip7/0")
    assert says in str(caught.value) and "clip7/0, prediction" in str(caught.value)


def test_frames_and_shapes_must_agree() -> None:
    with pytest.raises(DataError, match="2 predicted frames against 3"):
        jf_rles([None] * 2, [None] * 3)
    with pytest.raises(DataError, match=r"\(T, H, W\)"):
        jf_masks(np.zeros((2, 4, 5)), np.zeros((2, 5, 4)))


def test_radius_is_the_benchmarks_bound() -> None:
    assert [boundary_radius(*size) for size in ((480, 854), (720, 1280), (1, 1))] == [8, 12, 1]
    assert half_widths(5).tolist() == [5, 4, 4, 4, 3, 0] and growth(5).tolist() == [0, 1, 0, 0, 1, 3]
    assert Workspace(480, 854).radius == 8


def test_import_is_cheap() -> None:
    code = "import sys, rewards.metrics, eval.results.results_file, eval.scores.in_memory; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "eval.scores.in_memory" in done.stdout.split()
    assert not {"numba", "torch", "ray", "cv2", "pycocotools", "scipy"} & set(done.stdout.split())
