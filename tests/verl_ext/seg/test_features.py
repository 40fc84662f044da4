"""Frozen features of frames: kept within a budget, and the same numbers and gradients as encoding anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rollout.errors import DataError
from rollout.frames import load_frames
from rollout.types import Sample
from tests.rewards.segmenter.conftest import random_segmenter
from tests.verl_ext.engines import gradients_of_step
from tests.verl_ext.two_processes import ROWS, _rl_loss, rollouts
from verl_ext.policy.head import freeze_untrained
from verl_ext.recipe import Recipe
from verl_ext.seg.features import FrameFeatures, blank_levels

SIDE = 64
FRAME_BYTES = 4 * 32 * (16**2 + 8**2 + 4**2)
"""Of the test's SAM 2: float32, 32 channels."""


@pytest.fixture
def segmenter() -> Iterator[Any]:
    found = random_segmenter()
    freeze_untrained(found)
    yield found


def draw(segmenter: Any, features: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Masks of two states a frame, and the decoder's gradients of their squares."""
    segmenter.zero_grad()
    count = features.num_frames
    states = torch.randn(2 * count, segmenter.prompt_width, generator=torch.Generator().manual_seed(0))
    masks, _ = segmenter.decode(features, [*range(count), *range(count)], states)
    masks.square().mean().backward()
    return masks.detach(), {n: p.grad.clone() for n, p in segmenter.named_parameters() if p.grad is not None}


def same(first: Any, second: Any) -> bool:
    masks, gradients = first
    close = torch.allclose(masks, second[0], rtol=1e-5, atol=1e-5) and gradients.keys() == second[1].keys()
    return close and all(torch.allclose(g, second[1][n], rtol=1e-4, atol=1e-6) for n, g in gradients.items())


@pytest.mark.parametrize(("near", "far"), [(0, 0), (2, 0), (9, 0), (0, 1), (1, 1), (0, 9)])
def test_kept_features_have_the_numbers_and_gradients_of_new_ones(
    segmenter: Any, sample: Sample, near: int, far: int
) -> None:
    """Also after the decoder's own convolutions have moved: what is kept are the levels before them."""
    kept = FrameFeatures(SIDE, near=near * FRAME_BYTES, far=far * FRAME_BYTES)
    frames = [(sample, t) for t in (3, 0, 7)]
    for _ in range(3):
        anew = segmenter.encode(segmenter.preprocess(load_frames(sample.clip, [3, 0, 7])))
        expected = draw(segmenter, anew)
        assert same(expected, draw(segmenter, kept.of(frames)(segmenter)))
        assert {n for n in expected[1] if "conv_s" in n} == {
            f"sam2_model.sam_mask_decoder.conv_s{i}.{w}" for i in (0, 1) for w in ("weight", "bias")
        }
        with torch.no_grad():
            segmenter.sam2_model.sam_mask_decoder.conv_s0.weight.mul_(1.5)
        assert not same(expected, draw(segmenter, kept.of(frames)(segmenter)))
    assert len(kept) == min(3, near + far)
    assert kept.encoded == 3 + 5 * (3 - len(kept))  # six uses; only what is not kept is encoded again


def test_a_frame_is_encoded_once_whoever_asks_for_it(segmenter: Any, samples: list[Sample]) -> None:
    one, other = samples[0], next(s for s in samples if s.clip.frames != samples[0].clip.frames)
    again = replace(one, expression=replace(one.expression, id="other words"))
    kept = FrameFeatures(SIDE, near=1 << 30, far=0)
    kept.read_ahead([(one, 0), (other, 0)])
    kept.of([(one, 0), (one, 1)])(segmenter)
    found = kept.of([(again, 1), (other, 0), (again, 0)])(segmenter)
    assert kept.encoded == len(kept) == 3 and found.num_frames == 3
    kept.forget()
    assert len(kept) == 0
    kept.of([(one, 0)])(segmenter)
    assert kept.encoded == 4


def test_without_frames_every_parameter_of_the_decoder_is_used(segmenter: Any, sample: Sample) -> None:
    blank = FrameFeatures(SIDE, near=0, far=0).of([])(segmenter)
    real = FrameFeatures(SIDE, near=0, far=0).of([(sample, 0)])(segmenter)
    assert [level.shape for level in blank.levels] == [level.shape for level in real.levels]
    assert draw(segmenter, blank)[1].keys() == draw(segmenter, real)[1].keys()
    assert all(not level.any() for level in blank_levels(segmenter))


def test_an_unreadable_frame_says_which(segmenter: Any, sample: Sample, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    clip = replace(sample.clip, frames=(str(tmp_path / "broken.jpg"), *sample.clip.frames[1:]))
    kept = FrameFeatures(SIDE, near=1 << 30, far=0)
    broken = (replace(sample, clip=clip), 0)
    kept.read_ahead([broken])
    with pytest.raises(DataError, match=rf"clip {clip.name}, frame 0, file .*broken\.jpg"):
        kept.of([broken])(segmenter)


def test_the_engine_encodes_a_steps_frames_once(
    build_worker: Callable[..., Any], tiny_recipe: Callable[..., Recipe]
) -> None:
    """Log-prob pass and update together: same metrics, same gradients of every parameter as with nothing kept."""
    found = {}
    for gib in (0, 1):
        recipe = tiny_recipe("sft", "optim.lr=1e-9", "trainer.micro_batch=1", f"policy.frame_features_gib={gib}")
        worker = build_worker(recipe)
        frames = worker.engine._frames
        frames._near_limit = gib << 30  # the recipe is a supervised one, which keeps none
        step = gradients_of_step(worker, rollouts(worker, range(len(ROWS))), _rl_loss(recipe))
        distinct = set(frames._near)
        found[gib] = (*step, frames.encoded, distinct)
    (metrics, gradients, encoded, none), (metrics_kept, gradients_kept, encoded_kept, distinct) = found[0], found[1]
    assert not none and encoded_kept == len(distinct) < encoded
    for name in ("loss", "actor/pg_loss", "aux/video", "seg/mask_log_prob", "grad_norm"):
        assert metrics_kept[name] == pytest.approx(metrics[name], rel=1e-5), name
    assert gradients.keys() == gradients_kept.keys()
    size = torch.stack([g.norm() for g in gradients.values()]).norm()
    assert max((gradients_kept[n] - g).norm() / size for n, g in gradients.items()) < 1e-5
    worker.engine.get_per_tensor_param()  # the step's weights go to vLLM, which needs the memory
    assert len(frames) == 0
