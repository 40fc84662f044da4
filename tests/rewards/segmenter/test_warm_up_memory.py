"""A memory that was never trained does not disturb propagation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from rewards.segmenter import Segmenter
from rollout.types import Expression, Sample
from tests.rewards.segmenter.clips import FRAMES, write_clip
from tests.rewards.segmenter.conftest import SMALL
from verl_ext.tiny.warm_up import WarmUpSettings, warm_up_segmenter
from verl_ext.tiny.warm_up_clips import WarmUpClip, collect_clips
from verl_ext.tiny.warm_up_memory import silence_memory


def clip_of(folder: Path) -> WarmUpClip:
    clip, masklets = write_clip(folder, "clip")
    sample = Sample(clip, Expression("0", "both squares", ("0red", "0blue")), masklets)
    return collect_clips([sample], {"0red": ("red", "square"), "0blue": ("blue", "square")})[0]


@torch.no_grad()
def masks(segmenter: Segmenter, clip: WarmUpClip, state: Tensor) -> tuple[Tensor, Tensor]:
    """(FRAMES, h, w) logits of one state: propagated from the first frame, and decoded on each frame alone."""
    features = segmenter.encode(clip.pixels(segmenter, range(FRAMES)))
    alone, _ = segmenter.decode(features, list(range(FRAMES)), state.expand(FRAMES, -1))
    found = [step.head.logits for step in segmenter.propagation_steps(features, [0], states=state)]
    return torch.cat(found).reshape(alone.shape), alone


def test_a_state_then_draws_the_same_with_and_without_memories(tmp_path: Path) -> None:
    clip = clip_of(tmp_path)
    segmenter = Segmenter(SMALL).eval()
    torch.manual_seed(0)
    state = 2 * torch.randn(1, segmenter.prompt_width)
    propagated, alone = masks(segmenter, clip, state)
    before = (propagated - alone)[1:].norm() / alone.std()
    assert silence_memory(segmenter, [clip]) < 0.5
    propagated, alone = masks(segmenter, clip, state)
    torch.testing.assert_close(propagated[0], alone[0])  # the keyframe never had memories
    assert (propagated - alone)[1:].norm() / alone.std() < before / 2


def test_only_a_warm_up_without_propagation_silences(tmp_path: Path) -> None:
    clip, masklets = write_clip(tmp_path, "clip")
    samples = [Sample(clip, Expression("0", "both squares", ("0red", "0blue")), masklets)]
    words = {"0red": ("red", "square"), "0blue": ("blue", "square")}
    silent = []
    for share in (0.5, 1.0):
        segmenter = Segmenter(SMALL)
        warm_up_segmenter(segmenter, samples, words, 2, settings=replace(WarmUpSettings(), single_frame_share=share))
        layers = segmenter.sam2_model.memory_attention.layers
        silent.append(all(not layer.cross_attn_image.out_proj.weight.any() for layer in layers))
    assert silent == [False, True]
