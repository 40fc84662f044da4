"""ViCaS' track mAP, by worked numbers: what is a hit, in which order tracks count, and which frames."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eval.scorers import get_scorer
from eval.scorers.vicas import average_precision
from eval.scores.expression import score_expression
from rollout.types import Masklets, Sample
from tests.eval.answers import answer, truth
from tests.eval.clips import FRAMES, HEIGHT, WIDTH, disk, rle, samples
from tests.eval.scorers.test_scorers import row


@pytest.fixture
def target(tmp_path: Path) -> Sample:
    """Two objects, both visible throughout."""
    sample = samples(tmp_path, clips=1)[0]
    tracks = tuple(tuple(rle(disk(x, 24, 8)) for _ in range(FRAMES)) for x in (12, 50))
    expression = replace(sample.expression, anno_ids=("1", "2"))
    return replace(sample, expression=expression, masklets=Masklets(HEIGHT, WIDTH, tracks, FRAMES))


def test_every_object_is_a_track(target: Sample) -> None:
    """Merged to one track, two equal objects are a hit of one of them, at one threshold of ten: 50 / 10."""
    assert target.masklets is not None
    merged = answer(target, truth(target))
    apart = replace(merged, objects=target.masklets.rles)
    for record, precision in ((apart, 100.0), (merged, 5.0), (replace(merged, objects=()), 0.0)):
        got = score_expression(target, record, get_scorer("vicas"))
        assert got.jf == 100.0, "J&F is of the union"
        metrics = get_scorer("vicas").overall([got]).metrics
        assert metrics["map"].mean == pytest.approx(precision)
    assert next(iter(metrics)) == "map"


def test_a_merged_track_takes_one_object_at_most(target: Sample) -> None:
    """Half of two equal objects is IoU 0.5, which is a hit at the first of ten thresholds alone."""
    got = score_expression(target, answer(target, truth(target)), get_scorer("vicas"))
    assert got.tracks == [[0.5, 0.5]]
    assert average_precision([got], 0.5) == 0.5 and average_precision([got], 0.55) == 0.0


def test_only_annotated_frames_count(target: Sample) -> None:
    assert target.masklets is not None
    nonsense = rle(np.ones((HEIGHT, WIDTH), np.bool_))
    tracks = tuple(tuple(m if t in (0, 5) else nonsense for t, m in enumerate(track)) for track in target.masklets.rles)
    record = replace(answer(target, truth(target)), objects=tracks)
    shown = score_expression(target, record, get_scorer("vicas"), annotated=(0, 5))
    assert shown.tracks == [[1.0, 0.0], [0.0, 1.0]]
    assert score_expression(target, record, get_scorer("vicas")).tracks != shown.tracks


def test_area_under_the_monotone_curve() -> None:
    """Hits: yes, no, yes of three objects: recall 1/3 at precision 1, then 2/3 at 2/3."""
    rows = [row(objects=2, tracks=[[0.9, 0.0], [0.1, 0.2]]), row(objects=1, tracks=[[0.8]])]
    assert average_precision(rows, 0.5) == pytest.approx(1 / 3 + 1 / 3 * 2 / 3)
    assert average_precision(list(reversed(rows)), 0.5) == pytest.approx(2 / 3)
    assert average_precision([row(objects=2)], 0.5) == 0.0, "no tracks"


def test_a_track_takes_the_last_object_that_fits() -> None:
    """The first takes the second object, so the second track, which fits that one alone, is wrong."""
    rows = [row(objects=2, tracks=[[0.9, 0.6], [0.0, 0.7]])]
    assert average_precision(rows, 0.5) == 0.5
    assert average_precision(rows, 0.65) == 1.0


def test_videos_count_by_id_not_in_the_order_of_the_split() -> None:
    wrong, right = row(clip="000001", objects=1, tracks=[[0.0]]), row(clip="000002", objects=1, tracks=[[1.0]])
    for rows in ([wrong, right], [right, wrong]):
        assert get_scorer("vicas").group("all", rows).metrics["ap50"].mean == pytest.approx(25.0)
