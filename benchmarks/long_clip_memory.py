"""Peak memory of propagating a long clip: ``python -m benchmarks.long_clip_memory --frames 2000 --json FILE``.

JPEG frames on disk (1080p by default), boxes at a keyframe, RLEs out, as an evaluation does it. Prints what the process
and the GPU held at most after a tenth of the frames, a half, and all: the three should be equal. Weights are random.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from benchmarks.common import environment_facts, write_json

if TYPE_CHECKING:
    from rewards.segmenter import Segmenter

MARKS = (0.1, 0.5, 1.0)
DRAWN = 24
"""Different pictures; the other frames are links to them."""


def write_frames(folder: Path, count: int, height: int, width: int) -> list[str]:
    """A bright square that walks over noise."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 90, (height, width, 3), dtype=np.uint8)
    side = height // 4
    paths = []
    for t in range(count):
        path = folder / f"{t:05d}.jpg"
        if t < DRAWN:
            picture = noise.copy()
            x = (t * (width - side)) // DRAWN
            picture[side : 2 * side, x : x + side] = (230, 200, 40)
            Image.fromarray(picture).save(path, quality=90)
        else:
            os.link(paths[t % DRAWN], path)
        paths.append(str(path))
    return paths


def run(args: argparse.Namespace, segmenter: Segmenter | None = None) -> dict[str, Any]:
    """With ``segmenter`` if there is one, else with a new one."""
    import torch

    from rewards.segmenter import BoxRequest, RequestScorer, Segmenter, SegmenterConfig
    from rollout.frames import load_frames
    from rollout.types import Clip

    torch.set_num_threads(args.threads)
    dtype = "bfloat16" if args.device == "cuda" else "float32"
    if segmenter is None:
        segmenter = Segmenter(SegmenterConfig(preset=args.preset, compute_dtype=dtype)).to(args.device).eval()
        segmenter.requires_grad_(False).round_weights()
        if args.compile:
            segmenter.compile_parts()
    seen = 0
    peaks: dict[str, dict[str, float]] = {}

    def load(clip: Clip, indices: Sequence[int]) -> list[Any]:
        nonlocal seen
        seen += len(indices)
        for mark in MARKS:
            if seen >= mark * clip.num_frames and str(mark) not in peaks and clip.num_frames == args.frames:
                peaks[str(mark)] = held(args.device)
        return list(load_frames(clip, indices))

    scorer = RequestScorer(segmenter, max_resident_frames=args.cache, load=load)
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        paths = write_frames(Path(folder), args.frames, args.height, args.width)
        boxes = [(args.width * x, args.height * 0.2, args.width * (x + 0.2), args.height * 0.5) for x in (0.1, 0.5)]
        warm = Clip("warm", tuple(paths[: min(40, args.frames - 1)]), args.height, args.width)
        scorer.score([BoxRequest(warm, range(warm.num_frames), warm.num_frames // 3, boxes, None, with_masks=True)])
        seen, before = 0, held(args.device)
        clip = Clip("long", tuple(paths), args.height, args.width)
        start = time.perf_counter()
        (answer,) = scorer.score([BoxRequest(clip, range(args.frames), args.frames // 3, boxes, None, with_masks=True)])
        seconds = time.perf_counter() - start
    assert len(answer.rles) == args.frames  # type: ignore[union-attr, arg-type]
    return {
        "settings": {k: v for k, v in vars(args).items() if k not in ("json", "work")},
        "frames_per_second": round(args.frames / seconds, 2),
        "peak_gib": {"after_40_frames": before, **peaks, "end": held(args.device)},
    }


def held(device: str) -> dict[str, float]:
    """The most so far, in GiB."""
    out = {"process": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3)}
    if device == "cuda":
        import torch

        out["gpu"] = round(torch.cuda.max_memory_allocated() / 2**30, 3)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="sam2.1_hiera_l", help="which SAM 2, or tiny")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--width", type=int, default=1920)
    parser.add_argument("--cache", type=int, default=256, help="encoded frames that are kept")
    parser.add_argument("--compile", action="store_true", help="compile the segmenter")
    parser.add_argument("--threads", type=int, default=1, help="torch threads on the CPU")
    parser.add_argument("--work", type=Path, help="where the frames are written meanwhile")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    figures = run(args)
    print(f"{args.frames} frames of {args.height}x{args.width}: {figures['frames_per_second']} frames/s")
    for when, peak in figures["peak_gib"].items():
        print(f"  {when:16s} " + ", ".join(f"{k} {v:.3f} GiB" for k, v in peak.items()))
    if args.json:
        write_json(args.json, {"benchmark": "long_clip_memory", **environment_facts(args.device), **figures})


if __name__ == "__main__":
    main()
