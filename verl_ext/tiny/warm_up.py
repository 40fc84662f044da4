"""Mask warm-up: stands in for SAM 2's pre-training where SAM 2 is tiny and starts at random.

Trains all of SAM 2 to decode words and boxes on single frames, and to propagate either. The prompt of a description is
a sum of rows of a small learned table, which is thrown away: later the policy's ``[SEG]`` states take its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from rewards.segmenter import Segmenter
from rollout.errors import WorkerError
from rollout.types import Sample
from verl_ext.tiny.warm_up_clips import collect_clips
from verl_ext.tiny.warm_up_memory import silence_memory
from verl_ext.tiny.warm_up_metrics import measure
from verl_ext.tiny.warm_up_prime import prime_attention
from verl_ext.tiny.warm_up_tasks import TaskSampler, TaskSettings, WordTable

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class WarmUpSettings:
    """Found on synthetic clips at 96 pixels with SAM 2 at d_model 128."""

    lr: float = 1e-3
    transformer_lr_factor: float = 0.4
    """SAM's decoder transformer normalises after each block, and loses what it learnt at the others' rate."""
    weight_decay: float = 0.05
    prompt_std: float = 2.0
    """Spread of the table's rows at the start; a smaller one leaves the decoder on "all shapes"."""
    rise_steps: int = 20
    fall_share: float = 0.5
    """Share of the steps, at the end, in which the learning rate falls to zero."""
    single_frame_share: float = 0.5
    """Share of the steps, at the start, that only decode single frames; of 1, memories are silenced at the end."""
    propagation_share: float = 0.5
    """How often a later step propagates."""
    held_out_share: float = 0.1
    tasks: TaskSettings = field(default_factory=TaskSettings)


def warm_up_segmenter(
    segmenter: Segmenter,
    samples: Sequence[Sample],
    attributes: Mapping[str, str | Sequence[str]],
    steps: int = 450,
    seed: int = 0,
    progress: Progress | None = None,
    settings: WarmUpSettings | None = None,
    prompts: dict[str, torch.Tensor] | None = None,
) -> dict[str, float]:
    """Train a random ``segmenter`` in place on ``samples``; deterministic by seed for a number of threads.

    Args:
        samples: with ground truth; the first tenth of their clips is held out.
        attributes: annotation id -> its word or words, the most telling one first, as ("red", "circle").
        progress: called with steps done, steps in all, and what is going on.
        prompts: gets, by word, the prompt that it learnt to draw it from, (C,) float32 on the CPU.
    Returns:
        Measurements on the held-out clips; see ``warm_up_metrics.measure``.
    Raises:
        DataError: no sample has a described object, or a frame cannot be read.
        WorkerError: a gradient that is not finite.
    """
    s = settings or WarmUpSettings()
    rng = np.random.default_rng(seed)
    clips = collect_clips(samples, attributes)
    held_out = max(1, round(len(clips) * s.held_out_share)) if len(clips) > 1 else 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        words = sorted({w for c in clips for o in c.objects for w in o.words})
        table = WordTable(words, segmenter.prompt_width, s.prompt_std).to(segmenter.device)
    prime_attention(segmenter.sam2_model)
    segmenter.eval()  # the memory attention's dropout would slow so short a training
    decoder: Any = segmenter.sam2_model.sam_mask_decoder
    decoder.train()  # else a box's mask that is not stable yet is exchanged for one of those that states draw
    trained_before = [p.requires_grad for p in segmenter.parameters()]
    segmenter.requires_grad_(True)

    tasks = TaskSampler(segmenter, table, clips[held_out:], s.tasks, rng)
    optimizer = _optimizer(segmenter, table, s)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * _rate(step, steps, s)
        propagates = step >= s.single_frame_share * steps and rng.random() < s.propagation_share
        loss = tasks.propagation_loss() if propagates else tasks.single_frame_loss()
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        if not norm.isfinite():
            raise WorkerError(
                f"mask warm-up: step {step + 1} of {steps} has loss {float(loss.detach())} and a gradient that is not "
                "finite; another seed, or lower WarmUpSettings.lr"
            )
        optimizer.step()
        if progress is not None:
            progress(step + 1, steps, f"mask warm-up, loss {float(loss.detach()):.2f}")

    optimizer.zero_grad()
    for parameter, trains in zip(segmenter.parameters(), trained_before, strict=True):
        parameter.requires_grad_(trains)
    decoder.eval()
    if s.single_frame_share >= 1.0:
        silence_memory(segmenter, clips[held_out:])
    if prompts is not None:
        prompts |= {word: table.rows.weight[i].detach().cpu() for word, i in table.index.items()}
    return measure(segmenter, table, clips[: max(1, held_out)])


def _rate(step: int, steps: int, s: WarmUpSettings) -> float:
    """Rises, stays, and falls to zero."""
    return min(1.0, (step + 1) / s.rise_steps, (steps - step) / max(1.0, s.fall_share * steps))


def _optimizer(segmenter: Segmenter, table: WordTable, s: WarmUpSettings) -> torch.optim.Optimizer:
    model = segmenter.sam2_model
    slow = list(model.sam_mask_decoder.transformer.parameters())
    slow_ids = {id(p) for p in slow}
    rest = [p for p in segmenter.parameters() if id(p) not in slow_ids]
    groups = [
        {"params": [*rest, *table.parameters()], "peak_lr": s.lr},
        {"params": slow, "peak_lr": s.lr * s.transformer_lr_factor},
    ]
    return torch.optim.AdamW(groups, lr=s.lr, weight_decay=s.weight_decay, betas=(0.9, 0.95), fused=True)
