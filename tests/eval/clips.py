"""Small clips for the tests of this folder: shapes that move, come and go, and answers of known quality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from eval.results.record import ResultRecord, TurnRecord
from rollout.types import RLE, Action, Clip, Expression, Grounding, Masklets, Sample, StopReason

HEIGHT, WIDTH, FRAMES = 48, 64, 10
KINDS = (("attribute", 0), ("temporal", 1), ("no target", 2))
BAIT = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


def rle(mask: NDArray[Any]) -> RLE:
    """COCO RLE with text counts, as JSON files hold it."""
    out = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": out["counts"].decode("ascii")}


def disk(x: float, y: float, radius: float, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:height, :width]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def noisy_masks(frames: int, height: int, width: int, seed: int) -> NDArray[np.bool_]:
    """(T, H, W): empty, full, thin, noisy and smooth masks in turn."""
    rng = np.random.default_rng(seed)
    out = np.zeros((frames, height, width), np.bool_)
    for t in range(frames):
        form = int(rng.integers(6))
        if form == 1:
            out[t] = True
        elif form == 2:
            out[t, :, int(rng.integers(width))] = True
        elif form == 3:
            out[t] = rng.random((height, width)) < 0.1
        elif form >= 4:
            out[t] = disk(rng.uniform(0, width), rng.uniform(0, height), rng.uniform(1, height), height, width)
    return out


def truth(clip: int, kind: int) -> list[RLE | None]:
    """The target enters at frame 3 and leaves after frame 7; its size depends on the kind."""
    return [rle(disk(10 + 4 * t, 20 + 2 * clip, 7 + 2 * kind)) if 3 <= t <= 7 else None for t in range(FRAMES)]


def samples(folder: Path, clips: int = 4) -> list[Sample]:
    """``clips`` clips x three expressions, their JPEG frames written under ``folder``."""
    out = []
    for c in range(clips):
        paths = []
        for t in range(FRAMES):
            path = folder / f"clip{c}" / f"{t:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = np.full((HEIGHT, WIDTH, 3), 70 + 10 * c, np.uint8)
            image[disk(10 + 4 * t, 20 + 2 * c, 9)] = (200, 160, 40)
            Image.fromarray(image).save(path)
            paths.append(str(path))
        clip = Clip(f"clip{c}", tuple(paths), HEIGHT, WIDTH)
        for k, (kind, type_id) in enumerate(KINDS):
            masklets = () if type_id == 2 else (tuple(truth(c, k)),)
            anno_ids = () if type_id == 2 else (f"{c}{k}",)
            expression = Expression(str(k), f"the {kind} disk {BAIT if c == 0 else ''}", anno_ids, type_id, kind)
            out.append(Sample(clip, expression, Masklets(HEIGHT, WIDTH, masklets, FRAMES)))
    return out


def record(sample: Sample, prediction: list[RLE | None] | None = None, thinking: str = "Step 1: ...") -> ResultRecord:
    """A two-turn answer with the true masks unless ``prediction`` says otherwise."""
    masklets = sample.masklets
    assert masklets is not None
    if prediction is None:
        prediction = list(masklets.rles[0]) if masklets.rles else [None] * FRAMES
    vtg = Grounding(3, 7, 5)
    body = '<VTG>{"start": 3, "end": 7, "keyframe": 5}</VTG> <RefSeg> [SEG] </RefSeg>'
    look, done = (f"<think>{thinking}</think><{tag}>{body}</{tag}>" for tag in ("select", "answer"))
    turns = (
        TurnRecord(look, Action.SELECT, vtg, 5, (0, 2, 5, 7, 9), 5),
        TurnRecord(done, Action.ANSWER, vtg, 5, (3, 4, 5, 6, 7), 6),
    )
    e = sample.expression
    head = (sample.clip.name, e.id, e.text, e.type_id, e.kind, FRAMES, HEIGHT, WIDTH, (0, 4, 9))
    return ResultRecord(*head, StopReason.ANSWERED, turns, tuple(prediction), {"mask_iou": 1.5, "total": 4.25}, 96)


def shifted(sample: Sample, by: float) -> list[RLE | None]:
    """The true disk, ``by`` pixels too far right; nothing for a no-target expression."""
    assert sample.masklets is not None
    if not sample.masklets.rles:
        return [None] * FRAMES
    union = [sample.masklets.union(t) for t in range(FRAMES)]
    return [rle(np.roll(mask, round(by), axis=1)) if mask.any() else None for mask in union]
