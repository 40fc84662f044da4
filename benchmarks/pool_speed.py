"""How fast n rollouts of one clip are propagated: features shared and rollouts batched, against a fresh state each.

``python benchmarks/pool_speed.py --json out.json`` for the tiny SAM 2 on the CPU,
``--device cuda --preset sam2.1_hiera_l`` for a GPU. Weights are random: the work is the same, and masks are compared
between the two ways. Both are timed in one run, alternating, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.common import environment_facts, write_json
from rewards.segmenter import PRESETS, Segmenter, SegmenterConfig, build_sam2, mask_iou, mask_to_clip_size
from rewards.segmenter.build import hydra_untouched


def make_boxes(n: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """(n, 4) boxes of at least a fifth of the clip's side."""
    corner = torch.rand(n, 2, generator=generator) * 0.5
    extent = 0.2 + torch.rand(n, 2, generator=generator) * 0.3
    return torch.cat([corner, corner + extent], dim=1) * torch.tensor([width, height] * 2)


def ours(segmenter: Segmenter, pixels: Tensor, keyframes: list[int], boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(n, T, H, W) masks on the CPU."""
    with torch.no_grad():
        features = segmenter.encode(pixels)
        masks = torch.empty(len(keyframes), len(pixels), *size, dtype=torch.bool)
        for step in segmenter.propagation_steps(features, keyframes, boxes=boxes, clip_size=size):
            masks[step.items, step.frames] = mask_to_clip_size(step.head.logits, *size).cpu()
    return masks


def stock(predictor: Any, pixels: Tensor, keyframes: list[int], boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The same from sam2's video predictor, which starts from nothing for each rollout."""
    with hydra_untouched():
        import sam2.sam2_video_predictor as module
    masks = torch.empty(len(keyframes), len(pixels), *size, dtype=torch.bool)
    with mock.patch.object(module, "load_video_frames", lambda **_: (pixels, *size)), redirect_stderr(StringIO()):
        for i, keyframe in enumerate(keyframes):
            state = predictor.init_state(video_path="unused")
            predictor.add_new_points_or_box(state, keyframe, 1, box=boxes[i])
            for reverse in (False, True):
                for t, _, logits in predictor.propagate_in_video(state, start_frame_idx=keyframe, reverse=reverse):
                    masks[i, t] = (logits[0, 0] > 0).cpu()
    return masks


def seconds(run: Any, device: str) -> tuple[float, Tensor]:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """One warm-up of each way, then ``--repeats`` of both in turn."""
    config = SegmenterConfig(preset=args.preset, compute_dtype=args.dtype)
    segmenter = Segmenter(config).to(args.device)
    predictor = build_sam2(config, stock_predictor=True).to(args.device)
    predictor.load_state_dict(segmenter.sam2_model.state_dict())
    generator = torch.Generator().manual_seed(args.seed)
    side = config.input_size
    pixels = torch.randn(args.frames, 3, side, side, generator=generator).to(args.device)
    keyframes = torch.randint(args.frames, (args.rollouts,), generator=generator).tolist()
    size = (args.height, args.width)
    boxes = make_boxes(args.rollouts, *size, generator)

    def run_stock() -> Tensor:
        with segmenter.autocast():
            return stock(predictor, pixels, keyframes, boxes, size)

    ways = {"batched": lambda: ours(segmenter, pixels, keyframes, boxes, size), "fresh_state": run_stock}
    masks = {name: run() for name, run in ways.items()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.repeats):
        for name, run in ways.items():
            times[name].append(seconds(run, args.device)[0])
    median = {name: statistics.median(t) for name, t in times.items()}
    agreement = mask_iou(masks["batched"].flatten(0, 1), masks["fresh_state"].flatten(0, 1)).mean()
    return {
        "benchmark": "pool_speed",
        **environment_facts(args.device, ("torch", "sam2")),
        "threads": torch.get_num_threads(),
        "settings": {k: v for k, v in vars(args).items() if k != "json"},
        "keyframes": keyframes,
        "seconds": {name: [round(t, 4) for t in ts] for name, ts in times.items()},
        "rollouts_per_second": {name: round(args.rollouts / t, 3) for name, t in median.items()},
        "speedup": round(median["fresh_state"] / median["batched"], 2),
        "mask_iou_between_the_two": round(float(agreement), 5),
        "peak_gpu_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if args.device == "cuda" else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16 on cuda, else float32")
    parser.add_argument("--rollouts", type=int, default=8)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=854)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="torch threads on the CPU")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the result here")
    args = parser.parse_args()
    args.dtype = args.dtype or ("bfloat16" if args.device == "cuda" else "float32")
    torch.set_num_threads(args.threads)
    figures = measure(args)
    if args.json:
        write_json(args.json, figures)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
