"""Reading warm-up: stands in for the pre-training of a Qwen3-VL, which reads what a picture shows.

A plain loop over conversations of one picture, whose pixels stay on the device: a pretrained policy needs none of it,
and a tiny one learns to read in 100 000 of them, too many for a trainer that is made for large policies.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from rollout.errors import DataError, WorkerError
from rollout.types import Sample
from verl_ext.packing.dialogue import Dialogue
from verl_ext.packing.forward import row_states
from verl_ext.packing.row import lay_out
from verl_ext.packing.vision import Tower
from verl_ext.policy.pictures import PixelValues, pictures_of
from verl_ext.supervised.unreadable import UNREADABLE

Progress = Callable[[int, int, str], None]
ROW = 64
"""Conversations of a forward pass."""
MOST_THREADS = 4
"""On a CPU. A second one takes three tenths of a step's time; products this small have no use for many."""
RECENT = 10
"""Steps over which the loss is judged."""


@dataclass(frozen=True)
class Pointing:
    """What a conversation's ``[SEG]`` says where SAM 2 already draws from words."""

    at: int
    """Its place among the conversation's tokens."""
    prompt: torch.Tensor
    """(C,) float32: what SAM 2 draws the object from."""


@dataclass(frozen=True)
class ReadingSettings:
    """Found on marks of the badges world."""

    steps: int = 600
    batch: int = 256
    lr: float = 1e-3
    rise_steps: int = 40
    weight_decay: float = 0.01
    enough: float = 0.02
    """Mean loss over some steps at which it ends: what is written follows from the picture, so it falls to nothing."""


def warm_up_reading(
    model: Any,
    read: Sequence[Dialogue],
    settings: ReadingSettings,
    device: str = "cpu",
    seed: int = 0,
    progress: Progress | None = None,
    pointings: Sequence[Pointing | None] = (),
) -> dict[str, float]:
    """Train the language and vision model and the projection in place, and leave them on the CPU.

    Args:
        model: a policy; its segmenter is not touched.
        read: what `with_pixels` made of conversations, on ``device``.
        pointings: of as many conversations, None for those whose ``[SEG]`` learns nothing here; empty: all of them.
    Returns:
        ``reading_steps`` taken and, at their end, the ``reading_loss`` (nats a token) and the ``pointing_loss`` (mean
        squared distance of projected ``[SEG]`` states and prompts, as a share of the prompts' mean square).
    Raises:
        DataError: no conversations, or pointings of another number of them.
        RecipeError: a model that takes no rows (see :func:`verl_ext.packing.prepare.use_rows`).
        WorkerError: a loss that is not finite.
    """
    from verl_ext.packing.prepare import use_rows

    s = settings
    if not read:
        raise DataError("reading warm-up: no conversations")
    tower = Tower.of(model.config)
    use_rows(model, device == "cuda", device)
    points = list(pointings) or [None] * len(read)
    if len(points) != len(read):
        raise DataError(f"reading warm-up: {len(read)} conversations, and pointings of {len(points)}")
    spread = _mean_square(points)
    trained = (model.model, model.lm_head, model.text_hidden_fcs)
    parameters = [p for module in trained for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=s.lr, betas=(0.9, 0.98), weight_decay=s.weight_decay)
    generator = torch.Generator().manual_seed(seed)
    model.to(device).train()
    losses: list[float] = []
    apart: list[float] = []
    for step in range(s.steps):
        drawn = torch.randint(len(read), (s.batch,), generator=generator).tolist()
        for group in optimizer.param_groups:
            group["lr"] = s.lr * min(1.0, (step + 1) / s.rise_steps) * _fall(step, s.steps)
        optimizer.zero_grad()
        with _threads(device):
            read_loss, pointed = _backward(model, [(read[i], points[i]) for i in drawn], tower, device, spread)
        losses.append(read_loss)
        apart.append(pointed)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if not math.isfinite(losses[-1]):
            raise WorkerError(f"reading warm-up: step {step + 1} has loss {losses[-1]}; lower ReadingSettings.lr")
        if progress is not None:
            progress(step + 1, s.steps, f"reading warm-up, loss {losses[-1]:.3f}")
        if len(losses) >= RECENT and sum(losses[-RECENT:]) / RECENT < s.enough:
            break
    model.to("cpu").eval()
    return {
        "reading_steps": float(len(losses)),
        "reading_loss": _mean(losses[-RECENT:]),
        "pointing_loss": _mean(apart[-RECENT:]),
    }


@contextmanager
def _threads(device: str) -> Iterator[None]:
    """The quickstart's processes have one each; here no other one runs."""
    before = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(max(before, min(MOST_THREADS, len(os.sched_getaffinity(0)))))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))


def _mean_square(points: Sequence[Pointing | None]) -> float:
    """Of all prompts' numbers; 1 where there are none."""
    prompts = [p.prompt for p in points if p is not None]
    return float(torch.stack(prompts).square().mean()) if prompts else 1.0


def _fall(step: int, steps: int) -> float:
    """Held for half of the steps: reading begins suddenly, and a rate that falls from the start comes too late for it
    (two cores, 280 steps: 0.17 nats a token; 0.07 where it had not fallen yet)."""
    return min(1.0, 2 * (1 - step / steps))


def with_pixels(
    conversations: Iterable[Mapping[str, Any]], image_processor: Any, device: str = "cpu"
) -> Iterator[Dialogue]:
    """Items of :class:`verl_ext.supervised.dataset.SFTDataset`, each with a picture or more, with their pixels on the
    device, in the precision of a pass there.

    A row's worth at a time, while the pictures that a data set has just read are still held: one call of the image
    processor makes the pixels of them all.

    Raises:
        DataError: a frame that cannot be read.
    """
    half = torch.bfloat16 if device == "cuda" else torch.float32
    pixel_values, left = PixelValues(image_processor, device), iter(conversations)
    while items := list(islice(left, ROW)):
        if why := next((item["episode"][UNREADABLE] for item in items if UNREADABLE in item["episode"]), None):
            raise DataError(f"reading warm-up: {why}")
        shown = [pictures_of(Sample.from_dict(item["sample"]), item["multi_modal_inputs"]) for item in items]
        grids = [torch.as_tensor(item["multi_modal_inputs"]["image_grid_thw"]) for item in items]
        made = pixel_values.of([picture for pictures in shown for picture in pictures]).to(half)
        for item, grid, pixels in zip(items, grids, made.split([int(g.prod(1).sum()) for g in grids]), strict=True):
            yield Dialogue(
                ids=item["input_ids"],
                positions=item["position_ids"][1:],
                scored=item["loss_mask"].bool(),
                prompt=0,
                pixels=pixels,
                grids=grid,
            )


def _backward(
    model: Any, drawn: Sequence[tuple[Dialogue, Pointing | None]], tower: Tower, device: str, spread: float
) -> tuple[float, float]:
    """Gradients of a batch, a row after another; returns the mean over the tokens that are learnt, nats, and over the
    states that point, as a share of ``spread``."""
    learnt = sum(int(read.scored.sum()) for read, _ in drawn)
    pointing = max(1, sum(point is not None for _, point in drawn))
    total = apart = 0.0
    alike = sorted(drawn, key=lambda item: len(item[0]))  # neighbours of one length attend in one product on a CPU
    for start in range(0, len(alike), ROW):
        part = alike[start : start + ROW]
        row = lay_out([[k] for k in range(len(part))], [read for read, _ in part], tower).to(device)
        at = row.rows_of([[] if point is None else [point.at] for _, point in part]).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            states = row_states(model, row)
            scored = states.index_select(0, row.scored_at)
            loss = torch.nn.functional.cross_entropy(model.lm_head(scored).float(), row.labels, reduction="sum")
            projected = model.text_hidden_fcs(states.index_select(0, at)).float()
        away = torch.zeros((), device=device)
        if len(at):
            wanted = torch.stack([point.prompt for _, point in part if point is not None]).to(device)
            away = (projected - wanted).square().mean(1).sum() / spread
        (loss / learnt + away / pointing).backward()
        total += float(loss.detach())
        apart += float(away.detach())
    return total / learnt, apart / pointing
