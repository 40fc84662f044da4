"""J and F: how much faster than plain numpy + OpenCV, from masks and from RLE, measured in one run on one thread.

    python benchmarks/jf_speed.py [--frames 24] [--repeats 5] [--json FILE]

The plain side (``rewards.metrics.plain``) does what the public DAVIS tool does for every frame: two half-pixel boundary
maps, two dilations by the disk, four counts; from RLE it decodes with pycocotools first, as scoring tools do. Every
score is compared to the last bit before any time is printed. The arms take turns; the shortest CPU time of each counts,
so that what else the machine does changes the ratios little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numba
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from benchmarks.common import environment_facts, write_json
from rewards.metrics import jf_masks, jf_rles
from rewards.metrics.plain import plain_f, plain_j

PACKAGES = ("numpy", "numba", "opencv-python-headless", "pycocotools")
SIZES = {"240p": (240, 427), "480p": (480, 854), "720p": (720, 1280), "1080p": (1080, 1920)}
Masks = NDArray[np.bool_]


def blob_clip(height: int, width: int, frames: int, seed: int) -> tuple[Masks, Masks]:
    """(prediction, ground truth), each (T, H, W): a wobbling outline that moves, and the same outline displaced."""
    rng = np.random.default_rng(seed)
    out = np.zeros((2, frames, height, width), np.uint8)
    angle = np.linspace(0, 2 * np.pi, 160, endpoint=False)
    phases, size = rng.uniform(0, 2 * np.pi, 6), height * rng.uniform(0.12, 0.3)
    centre, speed = np.array([width, height]) * rng.uniform(0.35, 0.65, 2), rng.uniform(-0.01, 0.01, 2) * width
    for t in range(frames):
        for side, jitter in ((0, rng.normal(0, 0.01 * height, 2)), (1, np.zeros(2))):
            wobble = sum(np.sin((k + 2) * angle + phases[k] + t / 5) * 0.25 / (k + 2) for k in range(6))
            radius = size * (1 + wobble + (rng.normal(0, 0.02, angle.size) if side == 0 else 0))
            points = np.stack([np.cos(angle), np.sin(angle)], 1) * radius[:, None] + centre + t * speed + jitter
            cv2.fillPoly(out[side, t], [points.astype(np.int32)], 1)
    return out[0].astype(np.bool_), out[1].astype(np.bool_)


def encode(masks: Masks) -> list[dict[str, Any]]:
    return [coco_mask.encode(np.asfortranarray(m, dtype=np.uint8)) for m in masks]


def plain_scores(pred: Masks, gt: Masks) -> tuple[list[float], list[float]]:
    pairs = list(zip(pred, gt, strict=True))
    return [plain_j(p, g) for p, g in pairs], [plain_f(p, g) for p, g in pairs]


def plain_from_rle(pred: list[dict[str, Any]], gt: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    p, g = ([np.ascontiguousarray(coco_mask.decode(r), dtype=np.bool_) for r in side] for side in (pred, gt))
    return plain_scores(np.stack(p), np.stack(g))


def best_of(repeats: int, runs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Shortest seconds of each arm, of the thread's own CPU time; the arms take turns, each at least 20 ms long."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            started, rounds = time.thread_time(), 0
            while rounds == 0 or time.thread_time() - started < 0.02:
                run()
                rounds += 1
            times[name].append((time.thread_time() - started) / rounds)
    return {name: min(found) for name, found in times.items()}


def measure(name: str, frames: int, repeats: int) -> dict[str, Any]:
    """Milliseconds a frame and ratios at one frame size."""
    pred, gt = blob_clip(*SIZES[name], frames, seed=1)
    pred_rle, gt_rle = encode(pred), encode(gt)
    expected = plain_scores(pred, gt)
    for got in (jf_masks(pred, gt), jf_rles(pred_rle, gt_rle)):
        if [list(got[0]), list(got[1])] != [list(expected[0]), list(expected[1])]:
            raise SystemExit(f"{name}: fast and plain scores differ; times would mean nothing")
    seconds = best_of(
        repeats,
        {
            "plain_masks": lambda: plain_scores(pred, gt),
            "fast_masks": lambda: jf_masks(pred, gt),
            "plain_rle": lambda: plain_from_rle(pred_rle, gt_rle),
            "fast_rle": lambda: jf_rles(pred_rle, gt_rle),
        },
    )
    row: dict[str, Any] = {f"{key}_ms": 1000 * value / frames for key, value in seconds.items()}
    row["ratio_masks"] = seconds["plain_masks"] / seconds["fast_masks"]
    row["ratio_rle"] = seconds["plain_rle"] / seconds["fast_rle"]
    return {"size": name, "height": SIZES[name][0], "width": SIZES[name][1], "frames": frames, **row}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    numba.set_num_threads(1)
    rows = [measure(name, args.frames, args.repeats) for name in SIZES]
    print("milliseconds a frame, one thread")
    print(f"{'size':>6} {'plain':>9} {'fast':>9} {'ratio':>7}   {'plain RLE':>9} {'fast RLE':>9} {'ratio':>7}")
    for r in rows:
        print(
            f"{r['size']:>6} {r['plain_masks_ms']:9.3f} {r['fast_masks_ms']:9.3f} {r['ratio_masks']:6.1f}x   "
            f"{r['plain_rle_ms']:9.3f} {r['fast_rle_ms']:9.3f} {r['ratio_rle']:6.1f}x"
        )
    if args.json:
        facts = environment_facts(packages=PACKAGES)
        figures = {"threads": 1, "repeats": args.repeats, "rows": rows}
        write_json(args.json, {"benchmark": "jf_speed", **facts, **figures})


if __name__ == "__main__":
    main()
