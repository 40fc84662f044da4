"""Mask log-probs by sequence: over the keyframe alone, or over the keyframe and the spatial frames together."""

from __future__ import annotations

import pytest
import torch

from tests.verl_ext.seg.test_seg_batch import A, B, episode
from verl_ext.recipe.objective import CalibrationRecipe
from verl_ext.seg.batch import SegBatch, collect, rows_without_dummy
from verl_ext.seg.calibration import binarise_rollout_mask, mask_log_prob
from verl_ext.seg.mask_terms import TARGET_PIXELS, mask_terms

EPISODES = [
    episode([(3, [7]), (5, [20, 23])], spatial=(0, 5)),  # three tokens of three masks each
    episode([(3, [])]),
    episode([(2, [4])], spatial=(1,)),  # one of two
]
TOKENS = [3, 0, 1]


@pytest.fixture
def seg() -> SegBatch:
    return collect([A, B, B], EPISODES, with_video_frames=True)


@pytest.fixture
def masks(seg: SegBatch) -> torch.Tensor:
    return torch.randn(len(seg.pairs), 16, 16, generator=torch.Generator().manual_seed(0)) * 3


def rows(found: dict[str, torch.Tensor], key: str = "mask_log_prob", width: int = 1) -> list[torch.Tensor]:
    return [row.squeeze(-1) for row in rows_without_dummy(found[key], width)]


def of_state(seg: SegBatch, masks: torch.Tensor, state: int, kinds: tuple[int, ...]) -> torch.Tensor:
    """(1, k, h, w): the masks of one ``[SEG]``."""
    return masks[[m for m, p in enumerate(seg.pairs) if p[0] == state and p[2] in kinds]][None]


@pytest.mark.parametrize("reduction", ["mean", "sum", "topk"])
@pytest.mark.parametrize(("frames", "kinds"), [("keyframe", (1,)), ("all", (0, 1))])
def test_every_token_is_scored_by_its_own_masks(
    seg: SegBatch, masks: torch.Tensor, frames: str, kinds: tuple[int, ...], reduction: str
) -> None:
    settings = CalibrationRecipe(frames=frames, reduction=reduction, topk=0.1)  # type: ignore[arg-type]
    then = masks + torch.randn(masks.shape, generator=torch.Generator().manual_seed(1))
    target = mask_terms(seg, then, None, settings)["mask_target"]
    found = mask_terms(seg, masks, target, settings)
    assert "mask_target" not in found and [len(r) for r in rows(found)] == TOKENS
    for state, value in enumerate(torch.cat(rows(found))):
        now, before = (of_state(seg, x, state, kinds) for x in (masks, then))
        direct = mask_log_prob(now, binarise_rollout_mask(before), reduction, 0.1)  # type: ignore[arg-type]
        assert value == pytest.approx(float(direct), rel=1e-5)


def test_the_hardest_pixels_are_those_of_all_frames(seg: SegBatch, masks: torch.Tensor) -> None:
    settings = CalibrationRecipe(frames="all", reduction="topk", topk=10)
    target = mask_terms(seg, masks, None, settings)["mask_target"]
    last = [m for m, p in enumerate(seg.pairs) if p[0] == 3]
    assert seg.pairs[last[-1]][2] == 0  # a spatial frame
    wrong = masks.clone()
    wrong[last[-1]] *= -1
    before, after = (rows(mask_terms(seg, m, target, settings))[2] for m in (masks, wrong))
    assert after < before - 1.0
    alone = CalibrationRecipe()  # the keyframe's mask is as it was
    aim = mask_terms(seg, masks, None, alone)["mask_target"]
    assert torch.equal(*(rows(mask_terms(seg, m, aim, alone))[2] for m in (masks, wrong)))


@pytest.mark.parametrize(("frames", "drawn"), [("keyframe", [3, 0, 1]), ("all", [9, 0, 2])])
def test_the_first_pass_keeps_what_the_second_aims_at(
    seg: SegBatch, masks: torch.Tensor, frames: str, drawn: list[int]
) -> None:
    settings = CalibrationRecipe(frames=frames)  # type: ignore[arg-type]
    first = mask_terms(seg, masks, None, settings)
    assert [len(r) for r in rows_without_dummy(first["mask_target"], TARGET_PIXELS)] == drawn
    second = mask_terms(seg, masks, first["mask_target"], settings)
    assert torch.equal(first["mask_log_prob"].values(), second["mask_log_prob"].values())  # the ratio starts at 1


def test_a_batch_without_tokens_has_empty_rows() -> None:
    seg = collect([A, B], [episode([(3, [])])] * 2, with_video_frames=True)
    found = mask_terms(seg, torch.zeros(0, 16, 16), None, CalibrationRecipe(frames="all"))
    assert [len(r) for r in rows(found)] == [0, 0]
