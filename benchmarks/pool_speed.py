"""How fast rollouts of one clip are propagated: features shared and rollouts batched, against a fresh state each.

``python benchmarks/pool_speed.py --device cuda --json out.json`` for SAM 2.1-L on a GPU (under 150 s); without
arguments for the tiny SAM 2 on the CPU. Four cases of clips and objects; the compiled segmenter is measured beside the
eager one, and a long clip at the end. Weights are random: the work is the same, and masks are compared between the two
ways. The alternative is sam2's own video predictor, one state a rollout, after a warm-up as ours.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks import long_clip_memory
from benchmarks.common import environment_facts, see_objects, write_json
from rewards.segmenter import PRESETS, Segmenter, SegmenterConfig, build_sam2, mask_iou, mask_to_clip_size
from rewards.segmenter.build import hydra_untouched
from rewards.segmenter.overlap import Fetched, fetch, one_behind

FLASH_UNTIL_S = 125.0
"""The other attention kernel is only looked at where so much of the time is left."""


@dataclass(frozen=True)
class Case:
    """Rollouts of one clip."""

    frames: int
    objects: int
    own_keyframes: bool

    @property
    def name(self) -> str:
        where = "own keyframes" if self.own_keyframes else "one keyframe"
        return f"{self.frames} frames, {self.objects} object{'s' if self.objects > 1 else ''}, {where}"


CASES = (Case(6, 1, True), Case(6, 2, False), Case(12, 1, True), Case(20, 2, True))


@dataclass(frozen=True)
class Inputs:
    """n rollouts of o objects each over T frames."""

    pixels: Tensor
    """(T, 3, S, S) on the device."""
    keyframes: list[int]
    """(n,)"""
    boxes: Tensor
    """(n, o, 4) in pixels of the clip."""
    size: tuple[int, int]


def make_inputs(case: Case, args: argparse.Namespace, side: int) -> Inputs:
    """Boxes of at least a fifth of the clip's side."""
    generator = torch.Generator().manual_seed(args.seed)
    pixels = torch.randn(case.frames, 3, side, side, generator=generator).to(args.device)
    keyframes = torch.randint(case.frames, (args.rollouts,), generator=generator).tolist()
    shape = (args.rollouts, case.objects, 2)
    corner = torch.rand(shape, generator=generator) * 0.5
    extent = 0.2 + torch.rand(shape, generator=generator) * 0.3
    boxes = torch.cat([corner, corner + extent], dim=-1) * torch.tensor([args.width, args.height] * 2)
    if not case.own_keyframes:
        keyframes = [keyframes[0]] * args.rollouts
    return Inputs(pixels, keyframes, boxes, (args.height, args.width))


def ours(segmenter: Segmenter, given: Inputs) -> Tensor:
    """(n, o, T, H, W) masks on the CPU."""
    n, objects = given.boxes.shape[:2]
    masks = torch.empty(n * objects, len(given.pixels), *given.size, dtype=torch.bool)
    keyframes = [k for k in given.keyframes for _ in range(objects)]

    def work() -> Iterator[Fetched]:
        features = segmenter.encode(given.pixels)
        boxes = given.boxes.flatten(0, 1)
        for step in segmenter.propagation_steps(features, keyframes, boxes=boxes, clip_size=given.size):
            yield fetch(step, mask_to_clip_size(step.head.logits, *given.size))

    with torch.no_grad():
        for step, (found,) in one_behind(work()):
            for item, frame, mask in zip(step.items, step.frames, found, strict=True):
                masks[item, frame] = mask
    return masks.unflatten(0, (n, objects))


def stock(predictor: Any, given: Inputs) -> Tensor:
    """The same from sam2's video predictor, which starts from nothing for each rollout."""
    with hydra_untouched():
        import sam2.sam2_video_predictor as module
    n, objects = given.boxes.shape[:2]
    masks = torch.empty(n, objects, len(given.pixels), *given.size, dtype=torch.bool)
    loaded = mock.patch.object(module, "load_video_frames", lambda **_: (given.pixels, *given.size))
    with loaded, redirect_stderr(StringIO()):
        for i, keyframe in enumerate(given.keyframes):
            state = predictor.init_state(video_path="unused")
            for o in range(objects):
                predictor.add_new_points_or_box(state, keyframe, o, box=given.boxes[i, o])
            for reverse in (False, True):
                for t, _, logits in predictor.propagate_in_video(state, start_frame_idx=keyframe, reverse=reverse):
                    masks[i, :, t] = (logits[:, 0] > 0).cpu()
    return masks


def timed(run: Callable[[], Tensor], device: str) -> tuple[float, Tensor]:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


class Bench:
    """The cases on one model, and what was measured of them so far."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.began = time.perf_counter()
        config = SegmenterConfig(preset=args.preset, compute_dtype=args.dtype)
        self.predictor: Any = build_sam2(config, stock_predictor=True)  # a SAM2Base: both ways use the same weights
        self.segmenter = Segmenter(config, self.predictor).to(args.device).eval()
        see_objects(self.segmenter)
        self.inputs = {case: make_inputs(case, args, config.input_size) for case in args.cases}
        self.rows: dict[Case, dict[str, Any]] = {
            case: {"name": case.name, "keyframes": given.keyframes, "seconds": {}}
            for case, given in self.inputs.items()
        }
        self.masks: dict[tuple[Case, str], Tensor] = {}
        self.extra: dict[str, Any] = {"set_up_seconds": self.seconds_so_far()}

    def seconds_so_far(self) -> float:
        return round(time.perf_counter() - self.began, 1)

    def fresh(self) -> None:
        """The alternative: once to warm up, then timed."""
        for case, given in self.inputs.items():
            self._both(case, "fresh_state", partial(self._stock, given), self.args.fresh_repeats)

    def batched(self) -> None:
        """Ours, eager, likewise; its masks against the alternative's."""
        self.segmenter.requires_grad_(False).round_weights()  # both share them: not before the alternative is done
        for case, given in self.inputs.items():
            self._both(case, "batched", partial(ours, self.segmenter, given), self.args.repeats)
            same = mask_iou(*(self.masks[case, way].flatten(0, 2) for way in ("batched", "fresh_state"))).mean()
            self.rows[case]["mask_iou_between_the_two"] = round(float(same), 5)

    def _both(self, case: Case, name: str, run: Callable[[], Tensor], repeats: int) -> None:
        seconds, self.masks[case, name] = timed(run, self.args.device)
        self.rows[case].setdefault("first_run_seconds", {})[name] = round(seconds, 2)
        self._time(case, name, run, repeats)

    def flash(self) -> None:
        """Ours with flash attention 2 in place of what torch prefers: cuDNN's on Hopper, planned for each new shape."""
        from torch.nn.attention import SDPBackend, sdpa_kernel

        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
            for case, given in self.inputs.items():
                ours(self.segmenter, given)
                self._time(case, "batched_flash_attention", partial(ours, self.segmenter, given), self.args.repeats)

    def compiled(self) -> None:
        """Ours with encoder and steps compiled."""
        eager = self.masks[next(iter(self.inputs)), "batched"]
        start = time.perf_counter()
        self.segmenter.compile_parts()
        for i, (case, given) in enumerate(self.inputs.items()):
            masks = ours(self.segmenter, given)
            if i == 0:
                self.extra["compile_seconds"] = round(time.perf_counter() - start, 1)
                same = mask_iou(masks.flatten(0, 2), eager.flatten(0, 2)).mean()
                self.extra["mask_iou_compiled_and_eager"] = round(float(same), 5)
            self._time(case, "batched_compiled", partial(ours, self.segmenter, given), self.args.repeats)

    def encoder(self, name: str) -> None:
        """Images/s of the encoder alone, in the groups that the pool feeds it."""
        pixels = next(iter(self.inputs.values())).pixels[:1].expand(8, -1, -1, -1).contiguous()

        def run() -> Tensor:
            with torch.no_grad():
                return self.segmenter.encode(pixels).position

        run()
        times = [timed(run, self.args.device)[0] for _ in range(self.args.repeats + 1)]
        self.extra.setdefault("encoder_images_per_second", {})[name] = round(8 / statistics.median(times), 1)

    def long_clip(self) -> None:
        args = argparse.Namespace(
            preset=self.args.preset,
            device=self.args.device,
            frames=self.args.long_frames,
            height=1080,
            width=1920,
            cache=64,
            threads=self.args.threads,
            work=None,
        )
        found = long_clip_memory.run(args, self.segmenter)
        self.extra["long_clip"] = {k: found[k] for k in ("settings", "frames_per_second")}

    def figures(self) -> dict[str, Any]:
        rows = [self._row(row) for row in self.rows.values() if len(row["seconds"]) > 1]
        means = {
            key.replace("speedup", "geometric_mean"): round(statistics.geometric_mean(r[key] for r in rows), 2)
            for key in ("speedup", "speedup_eager_encoder")
            if rows and all(key in r for r in rows)
        }
        return {
            "benchmark": "pool_speed",
            **environment_facts(self.args.device, ("torch", "sam2")),
            "threads": torch.get_num_threads(),
            "settings": {k: v for k, v in vars(self.args).items() if k not in ("json", "cases")},
            **means,
            **self.extra,
            "peak_gpu_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if self.args.device == "cuda" else None,
            "whole_seconds": self.seconds_so_far(),
            "cases": rows,
        }

    def _row(self, row: dict[str, Any]) -> dict[str, Any]:
        median = {way: statistics.median(times) for way, times in row["seconds"].items()}
        best = median.get("batched_compiled", median["batched"])
        return {
            "name": row["name"],
            "speedup": round(median["fresh_state"] / best, 2),
            "speedup_eager_encoder": round(median["fresh_state"] / median["batched"], 2),
            **{key: value for key, value in row.items() if key != "name"},
            "rollouts_per_second": {way: round(self.args.rollouts / t, 3) for way, t in median.items()},
        }

    def _stock(self, given: Inputs) -> Tensor:
        with self.segmenter.autocast():
            return stock(self.predictor, given)

    def _time(self, case: Case, name: str, run: Callable[[], Tensor], repeats: int) -> None:
        gc.collect()
        self.rows[case]["seconds"][name] = [round(timed(run, self.args.device)[0], 4) for _ in range(repeats)]


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Figures are written after each part, so that a run that is cut off leaves what it has."""
    bench = Bench(args)
    parts: list[Callable[[], None]] = [bench.fresh, bench.batched, lambda: bench.encoder("eager")]
    if args.compile:
        parts += [bench.compiled, lambda: bench.encoder("compiled")]
    if args.long_frames:
        parts.append(bench.long_clip)
    if args.device == "cuda":
        parts.append(bench.flash)
    for part in parts:
        if part == bench.flash and bench.seconds_so_far() > FLASH_UNTIL_S:
            continue
        part()
        print(f"{bench.seconds_so_far():.0f} s", file=sys.stderr, flush=True)
        if args.json:
            write_json(args.json, bench.figures())
    return bench.figures()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--preset", choices=PRESETS, help="default: sam2.1_hiera_l on cuda, else tiny")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16 on cuda, else float32")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="default: on cuda")
    parser.add_argument("--rollouts", type=int, default=8)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=854)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--fresh-repeats", type=int, default=1)
    parser.add_argument("--long-frames", type=int, help="of the 1080p clip; default: 240 on cuda, else none")
    parser.add_argument("--threads", type=int, default=1, help="torch threads on the CPU")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the result here")
    args = parser.parse_args()
    cuda = args.device == "cuda"
    args.preset = args.preset or ("sam2.1_hiera_l" if cuda else "tiny")
    args.dtype = args.dtype or ("bfloat16" if cuda else "float32")
    args.compile = cuda if args.compile is None else args.compile
    args.long_frames = (240 if cuda else 0) if args.long_frames is None else args.long_frames
    args.cases = CASES
    torch.set_num_threads(args.threads)
    print(json.dumps(measure(args), indent=1))


if __name__ == "__main__":
    main()
