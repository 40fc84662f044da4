"""SAM 2.1-L and SAM 3's tracker side by side: ``python benchmarks/segmenters.py --device cuda --json FILE``.

Of each, with random weights: images/s of the encoder, frames/s of boxes propagated over a clip for 1, 4 and 16 objects
(a frame counts once however many objects it has; features are there already, as in the pool), peak memory, and how far
the batch agrees with its objects one at a time, in the arithmetic of the device and in float32. ``--device cpu``: tiny
ones. Under 120 s on an H200.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import environment_facts, see_objects, write_json
from rewards.segmenter import PRESETS, Segmenter, SegmenterConfig, mask_iou

OBJECTS = (1, 4, 16)
SIZE = (480, 854)
AGREEMENT_FRAMES, AGREEMENT_OBJECTS = 6, 4


def boxes_for(count: int, seed: int) -> Tensor:
    """(count, 4) in pixels of the clip, at least a fifth of its sides."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 0.5
    extent = 0.2 + torch.rand(count, 2, generator=generator) * 0.3
    return torch.cat([corner, corner + extent], dim=1) * torch.tensor([SIZE[1], SIZE[0]] * 2)


class Subject:
    """One segmenter under test."""

    def __init__(self, preset: str, args: argparse.Namespace) -> None:
        self.args, self.cuda = args, args.device == "cuda"
        config = SegmenterConfig(preset=preset, compute_dtype=args.dtype)
        self.segmenter = Segmenter(config).to(args.device).eval().requires_grad_(False)
        see_objects(self.segmenter)
        side = self.segmenter.architecture.image_size
        generator = torch.Generator().manual_seed(args.seed)
        self.pixels = torch.randn(args.frames, 3, side, side, generator=generator).to(args.device)

    def figures(self) -> dict[str, Any]:
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        model = self.segmenter.model
        self.segmenter.round_weights()
        with torch.no_grad():
            encoding = self._median(lambda: self.segmenter.encode(self.pixels[:8]))
            out: dict[str, Any] = {
                "input_side": self.segmenter.architecture.image_size,
                "parameters_million": round(sum(p.numel() for p in model.parameters()) / 1e6, 1),
                "encoder_images_per_second": round(min(8, len(self.pixels)) / encoding, 1),
                "encoder_peak_gib": self._peak(),
            }
            features = self.segmenter.encode(self.pixels)
            per_second, peaks = {}, {}
            for count in OBJECTS:
                boxes = boxes_for(count, self.args.seed)
                seconds = self._median(lambda boxes=boxes: self._propagate(features, boxes))
                per_second[str(count)] = round(len(self.pixels) / seconds, 2)
                peaks[str(count)] = self._peak()
            out |= {"propagated_frames_per_second": per_second, "propagation_peak_gib": peaks}
        return out | {"batch_against_one_at_a_time": self._agreement(self.args.dtype)}

    def float32(self) -> dict[str, float]:
        """The same agreement without rounding to bfloat16."""
        object.__setattr__(self.segmenter.config, "compute_dtype", "float32")
        self.segmenter.float()
        return self._agreement("float32")

    def _agreement(self, dtype: str) -> dict[str, float]:
        """Mask IoU and share of pixels of the batch's masks against those of each object alone."""
        boxes = boxes_for(AGREEMENT_OBJECTS, self.args.seed)
        with torch.no_grad():
            features = self.segmenter.encode(self.pixels[:AGREEMENT_FRAMES])
            together = self._logits(features, boxes)
            alone = torch.cat([self._logits(features, box[None]) for box in boxes])
        ours, theirs = (logits.flatten(0, 1) > 0 for logits in (together, alone))
        return {
            "mask_iou": round(float(mask_iou(ours, theirs).mean()), 5),
            "pixels_that_differ": round(float((ours != theirs).float().mean()), 6),
            "largest_logit_difference": float(f"{(together - alone).abs().max():.3g}"),
        }

    def _logits(self, features: Any, boxes: Tensor) -> Tensor:
        keyframe = features.num_frames // 3
        return self.segmenter.propagate(features, [keyframe] * len(boxes), boxes=boxes, clip_size=SIZE)

    def _propagate(self, features: Any, boxes: Tensor) -> None:
        """Masks stay where they are: what the pool does with them is measured by pool_speed."""
        keyframe = features.num_frames // 3
        for step in self.segmenter.propagation_steps(features, [keyframe] * len(boxes), boxes=boxes, clip_size=SIZE):
            del step

    def _median(self, run: Callable[[], Any]) -> float:
        run()
        times = []
        for _ in range(self.args.repeats):
            self._wait()
            start = time.perf_counter()
            run()
            self._wait()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def _wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def _peak(self) -> float | None:
        return round(torch.cuda.max_memory_allocated() / 2**30, 2) if self.cuda else None


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Written after each segmenter, so that a run that is cut off leaves what it has."""
    began = time.perf_counter()
    out: dict[str, Any] = {
        "benchmark": "segmenters",
        **environment_facts(args.device, ("torch", "sam2", "transformers")),
        "settings": {k: v for k, v in vars(args).items() if k != "json"},
        "segmenters": {},
    }
    for preset in args.presets:
        subject = Subject(preset, args)
        out["segmenters"][preset] = subject.figures()
        if args.dtype != "float32":
            out["segmenters"][preset]["batch_against_one_at_a_time_float32"] = subject.float32()
        del subject
        if args.device == "cuda":
            torch.cuda.empty_cache()
        out["whole_seconds"] = round(time.perf_counter() - began, 1)
        if args.json:
            write_json(args.json, out)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, help="default: the full ones on cuda, else tiny ones")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16 on cuda, else float32")
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the result here")
    args = parser.parse_args()
    cuda = args.device == "cuda"
    args.presets = args.presets or (["sam2.1_hiera_l", "sam3"] if cuda else ["tiny", "sam3_tiny"])
    args.dtype = args.dtype or ("bfloat16" if cuda else "float32")
    print(json.dumps(measure(args), indent=1))


if __name__ == "__main__":
    main()
