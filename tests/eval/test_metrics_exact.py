"""J and F: equal to the plain definition to the last bit, from masks and from RLE, at awkward sizes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from eval.metrics import jf_masks, jf_rles, score_clip
from eval.metrics.boundary import BoundaryScorer, boundary_radius, half_widths
from eval.metrics.packing import pack_masks
from eval.metrics.plain import plain_f, plain_j
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


def test_radius_beyond_one_word() -> None:
    """Frames larger than 8K have a disk wider than 64 pixels."""
    cv2 = pytest.importorskip("cv2")
    from eval.metrics import kernels

    rng = np.random.default_rng(0)
    a, b = (rng.random((150, 400)) < 0.0006 for _ in range(2))
    for radius in (63, 64, 65, 127, 130):
        x = np.arange(-radius, radius + 1)
        structure = (x[:, None] ** 2 + x[None, :] ** 2 <= radius**2).astype(np.uint8)
        expected = int((a & cv2.dilate(b.astype(np.uint8), structure).astype(bool)).sum())
        packed = pack_masks(a), pack_masks(b)
        box = (0, 149, 0, packed[0].shape[1] - 1)
        assert kernels.count_near(packed[0], box, packed[1], box, radius, half_widths(radius)) == expected


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
        ({**good(), "counts": "\u00e9\u00e9"}, "do not"),
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
    assert half_widths(5).tolist() == [5, 4, 4, 4, 3, 0]
    assert BoundaryScorer(480, 854, columns=True).length == 480


def test_import_is_cheap() -> None:
    code = "import sys, eval.metrics, eval.results, eval.score; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "eval.score" in done.stdout.split()
    assert not {"numba", "torch", "ray", "cv2", "pycocotools", "scipy"} & set(done.stdout.split())
