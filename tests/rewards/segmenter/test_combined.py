"""Boxes and a ``[SEG]`` state in one request: what draws, and that it equals sam2's own predictor with both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rewards.segmenter import BoxRequest, PropagateRequest, RequestScorer, Segmenter
from rewards.segmenter.agreement import lies_in
from rewards.segmenter.types import DrawnBy
from rollout.types import Clip, Masklets, decode_rle
from tests.rewards.segmenter.clips import FRAMES, HEIGHT, WIDTH, write_clip
from tests.rewards.segmenter.stock import stock_predictor, stock_propagate
from tests.rewards.segmenter.test_propagate import BOXES, KEYFRAMES, SIZE, assert_same_masks, resized

WHOLE = (0.0, 0.0, WIDTH - 1.0, HEIGHT - 1.0)
FRAME_BOXES = [(2.0, 2.0, 30.0, 30.0), (20.0, 10.0, 40.0, 30.0)]


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> tuple[Clip, Masklets]:
    return write_clip(tmp_path_factory.mktemp("clips"))


def state(seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=32).astype(np.float32)


def ask(squares: tuple[Clip, Masklets], boxes: Any, seg: Any, keyframe: int = 2) -> BoxRequest:
    return BoxRequest(squares[0], range(FRAMES), keyframe, boxes, None, with_masks=True, state=seg)


def test_both_prompts_equal_stock(segmenter: Segmenter, pixels: Tensor, states: Tensor) -> None:
    with torch.no_grad():
        ours = segmenter.propagate(
            segmenter.encode(pixels), KEYFRAMES, states=states[:5], boxes=BOXES, clip_size=SIZE, max_batch=3
        )
    predictor = stock_predictor(segmenter)
    for item, keyframe in enumerate(KEYFRAMES):
        given = {"box": BOXES[item], "state": states[item]}
        assert_same_masks(resized(ours[item]), stock_propagate(predictor, pixels, keyframe, SIZE, **given))


def test_each_prompt_matters(segmenter: Segmenter, pixels: Tensor, states: Tensor) -> None:
    with torch.no_grad():
        features = segmenter.encode(pixels[:4])
    both = {"states": states[:1], "boxes": BOXES[:1], "clip_size": SIZE}
    together = segmenter.propagate(features, [1], **both)  # type: ignore[arg-type]
    for less in ({"states": states[:1]}, {"boxes": BOXES[:1], "clip_size": SIZE}):
        assert (segmenter.propagate(features, [1], **less) - together).abs().max() > 1e-2  # type: ignore[arg-type]


def test_what_is_there_draws_alone(segmenter: Segmenter, squares: tuple[Clip, Masklets]) -> None:
    """Without boxes a state is what evaluation propagates; without a state boxes are what they always were."""
    scorer = RequestScorer(segmenter)
    given: list[Any] = [([], state(0)), (FRAME_BOXES, None), ([], None)]
    seg, boxes, nothing = scorer.score([ask(squares, *prompts) for prompts in given])
    alone, plain = scorer.score([PropagateRequest(squares[0], 2, state(0)), ask(squares, FRAME_BOXES, None)])
    assert (seg.drawn_by, seg.rles) == (DrawnBy.SEG, alone.rles) and seg.objects is None  # type: ignore[union-attr]
    assert (boxes.drawn_by, boxes.rles) == (DrawnBy.BOXES, plain.rles)  # type: ignore[union-attr]
    assert nothing.drawn_by is DrawnBy.NOTHING and nothing.objects == ()  # type: ignore[union-attr]
    assert not any(decode_rle(rle).any() for rle in nothing.rles)  # type: ignore[union-attr]


def test_boxes_and_a_state_that_agree_draw_together(segmenter: Segmenter, squares: tuple[Clip, Masklets]) -> None:
    """A box around everything contradicts nothing."""
    both, boxes = RequestScorer(segmenter).score([ask(squares, [WHOLE], state(0)), ask(squares, [WHOLE], None)])
    assert both.drawn_by is DrawnBy.BOTH and both.rles != boxes.rles  # type: ignore[union-attr]
    several = RequestScorer(segmenter).score([ask(squares, [WHOLE, *FRAME_BOXES], state(0))])[0]
    assert len(several.objects) == 3  # type: ignore[union-attr, arg-type]
    merged = np.stack([[decode_rle(rle) for rle in track] for track in several.objects]).any(axis=0)  # type: ignore[union-attr]
    assert np.array_equal(merged, np.stack([decode_rle(rle) for rle in several.rles]))  # type: ignore[union-attr]


def test_boxes_draw_alone_against_a_state_that_means_something_else(
    segmenter: Segmenter, squares: tuple[Clip, Masklets]
) -> None:
    scorer = RequestScorer(segmenter)
    where = decode_rle(scorer.score([PropagateRequest(squares[0], 2, state(0))])[0].rles[2])  # type: ignore[union-attr, index]
    rows, columns = np.nonzero(~where)
    empty = next(
        (x, y, x + 2.0, y + 2.0)
        for y, x in zip(rows.tolist(), columns.tolist(), strict=True)
        if y + 3 < HEIGHT and x + 3 < WIDTH and not where[y : y + 4, x : x + 4].any()
    )
    against, alone, agreeing = scorer.score(
        [ask(squares, [empty], state(0)), ask(squares, [empty], None), ask(squares, [WHOLE], state(0))]
    )
    assert against.drawn_by is DrawnBy.BOXES_AGAINST_SEG and against.rles == alone.rles  # type: ignore[union-attr]
    assert agreeing.drawn_by is DrawnBy.BOTH  # type: ignore[union-attr]


def test_a_mixed_batch_equals_one_at_a_time(segmenter: Segmenter, squares: tuple[Clip, Masklets]) -> None:
    given = [([WHOLE], state(0)), ([], state(1)), (FRAME_BOXES, None), ([(0, 0, 2, 2)], state(2)), ([WHOLE], state(3))]
    requests = [ask(squares, boxes, seg, keyframe) for keyframe, (boxes, seg) in enumerate(given)]
    for request, found in zip(requests, RequestScorer(segmenter).score(requests), strict=True):
        (alone,) = RequestScorer(segmenter).score([request])
        assert alone.drawn_by is found.drawn_by  # type: ignore[union-attr]
        for a, b in zip(alone.rles, found.rles, strict=True):  # type: ignore[union-attr, arg-type]
            assert (decode_rle(a) != decode_rle(b)).mean() < 2e-3


def test_half_of_a_mask_in_the_boxes_is_enough() -> None:
    mask = torch.zeros(10, 10, dtype=torch.bool)
    mask[2:6, 2:6] = True
    assert lies_in(mask, [(2, 2, 3, 5)])  # two of four columns
    assert not lies_in(mask, [(2, 2, 2, 5)])
    assert lies_in(mask, [(2, 2, 2, 5), (5, 2, 5, 5)])  # in their union
    assert lies_in(torch.zeros(10, 10, dtype=torch.bool), [(0, 0, 1, 1)])  # what draws nothing contradicts nothing
    assert not lies_in(mask, [(7, 7, 40, 40)])


def test_a_single_frame_and_judged_frames(segmenter: Segmenter, tmp_path: Path) -> None:
    clip, masklets = write_clip(tmp_path, "still", 1)
    request = BoxRequest(clip, (0,), 0, [WHOLE], masklets, judged=(0,), state=state(0))
    (answer,) = RequestScorer(segmenter).score([request])
    assert answer.drawn_by is DrawnBy.BOTH and len(answer.judged.f) == 1  # type: ignore[union-attr]
