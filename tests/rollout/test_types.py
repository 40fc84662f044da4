"""Ground truth without decoding it."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from rollout.types import Masklets


@pytest.fixture
def masklets() -> tuple[Masklets, np.ndarray]:
    """Two objects that overlap in frame 0; in frame 1 one of them, in frame 2 an empty mask, in frame 3 none."""
    masks = np.zeros((2, 4, 20, 30), dtype=np.uint8)
    masks[0, 0, 2:12, 3:20] = masks[1, 0, 8:18, 10:28] = masks[1, 1, 4:6, 7:9] = 1
    rles = [[coco_mask.encode(np.asfortranarray(m)) for m in track] for track in masks]
    rles[0][1] = rles[0][3] = rles[1][3] = None
    rles[1][0]["counts"] = rles[1][0]["counts"].decode()  # as it comes out of JSON
    return Masklets(20, 30, tuple(map(tuple, rles)), 4), masks.any(axis=0)


def test_areas_and_existence_are_those_of_the_union(
    masklets: tuple[Masklets, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, union = masklets
    for t in range(4):
        np.testing.assert_array_equal(found.union(t), union[t])
    monkeypatch.setattr(coco_mask, "decode", None)  # a long clip's masks take minutes to decode
    assert found.areas().tolist() == union.sum(axis=(1, 2)).tolist()
    assert found.existence().tolist() == [1, 1, 0, 0]
    assert found.union_rle(3) is None


def test_no_objects_are_nowhere() -> None:
    nothing = Masklets(4, 5, (), 3)
    assert nothing.areas().tolist() == [0, 0, 0] and not nothing.union(1).any() and nothing.union(1).shape == (4, 5)
