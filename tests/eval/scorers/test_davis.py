"""The DAVIS challenge's protocol by worked numbers: painting, matching, void, objects that come later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from eval.scorers import get_scorer
from rollout.types import RLE, Expression, Sample
from tests.eval.clips import FRAMES, HEIGHT, WIDTH, disk, rle, samples

FIRST, SECOND = disk(14, 24, 8), disk(46, 24, 8)
Tracks = dict[str, list[RLE | None]]


@pytest.fixture
def asked(tmp_path: Path) -> list[Sample]:
    """Two objects, four annotators each."""
    clip = samples(tmp_path, clips=1)[0].clip
    ids = [(str(n), str(n // 4 + 1)) for n in range(8)]
    return [Sample(clip, Expression(eid, f"object {obj}", (obj,))) for eid, obj in ids]


def label_image(_: int) -> NDArray[np.uint8]:
    return (FIRST + 2 * SECOND).astype(np.uint8)


def drawn(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Tracks:
    return {str(n): [rle(first if n < 4 else second)] * FRAMES for n in range(8)}


def scores(
    asked: list[Sample], tracks: Tracks, labels: Callable[[int], NDArray[np.uint8] | None] = label_image
) -> dict[str, float | None]:
    found = get_scorer("davis").together(asked, tracks, labels)
    return {eid: values["davis_j"] for eid, values in found.items()}


def test_labels_are_matched_to_objects(asked: list[Sample]) -> None:
    assert set(scores(asked, drawn(SECOND, FIRST)).values()) == {1.0}


def test_a_label_is_matched_once(asked: list[Sample]) -> None:
    """Both sentences give the first object: painted, the lower label holds all, the other has nothing left."""
    found = scores(asked, drawn(FIRST, FIRST))
    assert [found[str(n)] for n in (0, 4)] == [1.0, 0.0]


def test_the_lower_object_wins_where_masks_overlap(asked: list[Sample]) -> None:
    found = scores(asked, drawn(FIRST, FIRST | SECOND))
    assert set(found.values()) == {1.0}, "what the first covers is not the second's"
    found = scores(asked, drawn(FIRST | SECOND, SECOND))
    assert found["0"] == pytest.approx(0.5) and found["4"] == 0.0


def test_void_counts_for_nobody(asked: list[Sample]) -> None:
    void = disk(30, 8, 6)
    found = scores(asked, drawn(FIRST | void, SECOND), lambda t: np.where(void, 255, label_image(t)).astype(np.uint8))
    assert set(found.values()) == {1.0}


def test_an_object_that_comes_later_does_not_count(asked: list[Sample]) -> None:
    late = lambda t: label_image(t) if t else FIRST.astype(np.uint8)  # noqa: E731
    found = scores(asked, drawn(FIRST, SECOND), late)
    assert [found[str(n)] for n in range(8)] == [1.0] * 4 + [None] * 4


def test_missing_answers_are_empty_masks(asked: list[Sample]) -> None:
    tracks = drawn(FIRST, SECOND)
    del tracks["5"]
    found = scores(asked, tracks)
    assert found["5"] == 0.0 and {v for k, v in found.items() if k != "5"} == {1.0}


@pytest.mark.parametrize("left", [7, 5, 4, 0])
def test_clips_of_another_form_have_no_such_score(asked: list[Sample], left: int) -> None:
    assert scores(asked[:left], drawn(FIRST, SECOND)) == {}


def test_masks_in_another_form_have_no_such_score(asked: list[Sample]) -> None:
    assert scores(asked, drawn(FIRST, SECOND), lambda t: None) == {}


def test_ids_are_ordered_by_number(asked: list[Sample]) -> None:
    """As text, 10 would come before 2."""
    numbered = [replace(s, expression=replace(s.expression, id=str(n + 6))) for n, s in enumerate(asked)]
    tracks = {str(n + 6): [rle(FIRST if n < 4 else SECOND)] * FRAMES for n in range(8)}
    assert set(scores(list(reversed(numbered)), tracks).values()) == {1.0}


def test_runs_as_a_list_are_read(asked: list[Sample]) -> None:
    flat = FIRST.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat.astype(int))) + 1
    counts = np.diff([0, *edges.tolist(), HEIGHT * WIDTH]).tolist()
    tracks = drawn(FIRST, SECOND) | {"0": [{"size": [HEIGHT, WIDTH], "counts": counts}] * FRAMES}
    assert scores(asked, tracks)["0"] == 1.0
