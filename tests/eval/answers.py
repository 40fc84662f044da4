"""Answers of known quality to any benchmark's samples, written as a run writes them, and their scores done plainly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.results.record import ResultRecord, TurnRecord
from eval.results.results_file import ResultsFile
from rewards.metrics.plain import plain_f, plain_j
from rollout.types import RLE, Action, Grounding, Sample, StopReason
from tests.eval.clips import rle

Masks = NDArray[np.bool_]
Answer = Callable[[Sample], Masks]


def truth(sample: Sample) -> Masks:
    """(T, H, W): all objects of the expression merged by OR."""
    assert sample.masklets is not None
    return np.stack([sample.masklets.union(t) for t in range(sample.clip.num_frames)])


def nothing(sample: Sample) -> Masks:
    return np.zeros((sample.clip.num_frames, sample.clip.height, sample.clip.width), np.bool_)


def disturbed(sample: Sample) -> Masks:
    """The truth moved, a frame of it lost, and a corner too many in every third frame."""
    rng = np.random.default_rng(len(sample.id) + sample.clip.num_frames)
    masks = truth(sample)
    masks = np.roll(masks, tuple(rng.integers(1, 6, 2)), axis=(1, 2))
    masks[int(rng.integers(len(masks)))] = False
    masks[::3, :7, :9] = True
    return masks


def answer(sample: Sample, masks: Masks, grounding: Grounding | None = None) -> ResultRecord:
    """A dialogue of one turn with these masks; its interval and keyframe are the true ones unless given."""
    exists = np.flatnonzero(truth(sample).any(axis=(1, 2)))
    if grounding is None and len(exists):
        grounding = Grounding(int(exists[0]), int(exists[-1]), int(exists[len(exists) // 2]))
    turn = TurnRecord("<answer/>", Action.ANSWER, grounding, 0, (0,), 1)
    prediction: tuple[RLE | None, ...] = tuple(rle(m) if m.any() else None for m in masks)
    clip, e = sample.clip, sample.expression
    head = (clip.name, e.id, e.text, e.type_id, e.kind, clip.num_frames, clip.height, clip.width, (0,))
    return ResultRecord(*head, StopReason.ANSWERED, (turn,), prediction)


def write_results(folder: Path, samples: Iterable[Sample], masks: Answer = truth) -> Path:
    """``results.jsonl`` in ``folder`` with an answer to every sample."""
    with ResultsFile(folder / "results.jsonl") as results:
        for sample in samples:
            results.append(answer(sample, masks(sample)))
    return folder / "results.jsonl"


def plain_score(
    sample: Sample, masks: Masks, foreground: Masks | None = None, frames: Sequence[int] | None = None
) -> dict[str, float]:
    """Every mask score of one expression, 0..1, by its definition, a frame at a time on decoded masks; ``frames`` are
    those that count."""
    keep = list(range(len(masks)) if frames is None else frames)
    gt, masks = truth(sample)[keep], masks[keep]
    j = [plain_j(p, g) for p, g in zip(masks, gt, strict=True)]
    f = [plain_f(p, g) for p, g in zip(masks, gt, strict=True)]
    both = [t for t in range(len(gt)) if masks[t].any() and gt[t].any()]
    either = [t for t in range(len(gt)) if masks[t].any() or gt[t].any()]
    out: dict[str, Any] = {
        "j": np.mean(j),
        "f": np.mean(f),
        "accuracy": np.mean(masks == gt),
        "tiou": len(both) / len(either) if either else 1.0,
        "viou": sum(j[t] for t in both) / len(either) if either else 1.0,
    }
    if foreground is not None:
        outside = (masks & ~gt).sum(axis=(1, 2))
        area = foreground.sum(axis=(1, 2))
        pairs = zip(outside, area, strict=True)
        out["robustness"] = np.mean([max(0.0, 1 - o / a) if a else float(o == 0) for o, a in pairs])
    return {name: float(value) for name, value in out.items()} | {"jf": float((out["j"] + out["f"]) / 2)}
