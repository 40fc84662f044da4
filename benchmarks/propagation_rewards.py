"""What rewards of propagated masks cost a step: the pool's seconds without them, bounded, and exact.

``python benchmarks/propagation_rewards.py --json out.json`` for the tiny SAM 2 on a CPU; ``--device cuda --preset
sam2.1_hiera_l`` is a step of VideoSEG-O3 at its real size, 12 prompts of 4 rollouts. To take a minute, it times the
exact ways on a quarter of the prompts and says four times that (clips are scored one by one, and share nothing), and
leaves ``exact_all`` out, which ``--ways`` adds. Clips on disk are smooth noise that drifts, states, boxes and weights
random: the work is that of real ones. The segmenter is as a pool's worker has it, on a GPU compiled unless
``--no-compile``. Each way starts with an empty cache, as a step does, after a warm-up by the same requests (a GPU's
kernels are planned for each new shape), and all are timed in turn, so that a busy machine slows all. Progress goes to
stderr, and what is measured to ``--json`` at once.
``--step-seconds`` is the time of a step without them, for the share.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from benchmarks.common import environment_facts, write_json
from rewards.segmenter import PRESETS, RequestScorer, Segmenter, SegmenterConfig
from rewards.segmenter.types import BoxRequest, PropagateRequest, Request, SegRequest
from rollout.frames import evenly_spaced
from rollout.types import Clip, Expression, Masklets, Sample
from verl_ext.recipe.objective import PropagationRecipe
from verl_ext.scoring.propagation import judged_request

BEGAN = time.perf_counter()
KINDS = ("seg", "boxes")
COARSE = 6
"""Pixels between the noise's own values."""
FORMS: dict[str, tuple[Literal["bounded", "exact"], bool]] = {
    "bounded": ("bounded", True),
    "exact": ("exact", True),
    "exact_all": ("exact", False),
}
"""Ways beside ``without``: what SAM 2 sees, and whether ``--judged`` frames are judged or all."""
SPATIAL = 5
"""Frames on which VideoSEG-O3's own rewards decode each turn's mask, beside its keyframe."""


def make_sample(root: Path, number: int, args: argparse.Namespace) -> Sample:
    """A clip with a disc that grows, as ground truth. Its frames are one smooth noise, which drifts: they are written
    and read as fast as a camera's (white noise takes a multiple)."""
    from rewards.segmenter import encode_rles

    rng = np.random.default_rng([args.seed, number])
    folder, size = root / str(number), (args.height, args.width)
    folder.mkdir()
    y, x = np.ogrid[: size[0], : size[1]]
    discs = np.stack([(y - size[0] / 2) ** 2 + (x - size[1] / 2) ** 2 < (20 + t) ** 2 for t in range(args.frames)])
    coarse = rng.integers(0, 255, (-(-size[0] // COARSE), -(-size[1] // COARSE), 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))
    paths = []
    for t in range(args.frames):
        paths.append(str(folder / f"{t:05d}.jpg"))
        Image.fromarray(np.roll(picture, (2 * t, 5 * t), (0, 1))).save(paths[-1])
    masklets = Masklets(*size, (tuple(encode_rles(discs)),), args.frames)
    return Sample(Clip(str(number), tuple(paths), *size), Expression("0", "the disc", ("0",)), masklets)


def requests_of(
    sample: Sample, kind: str, args: argparse.Namespace, width: int
) -> tuple[list[Request], list[PropagateRequest | BoxRequest]]:
    """(what a method's own rewards ask, what evaluation asks) about a prompt's rollouts."""
    rng = np.random.default_rng([args.seed, int(sample.clip.name), 1])
    own: list[Request] = []
    whole: list[PropagateRequest | BoxRequest] = []
    clip, masklets = sample.clip, sample.masklets
    assert masklets is not None
    shown = evenly_spaced(0, args.frames - 1, SPATIAL)
    for _ in range(args.rollouts):
        keyframe = int(rng.integers(args.frames))
        if kind == "seg":
            states = [rng.normal(size=width).astype(np.float32) for _ in range(2)]
            own.append(SegRequest(clip, masklets, shown, states, [args.frames // 2, keyframe]))
            whole.append(PropagateRequest(clip, keyframe, states[1]))
        else:
            x, y = (rng.random(2) * (clip.width / 2, clip.height / 2)).tolist()
            box = (x, y, x + clip.width / 4, y + clip.height / 4)
            frames = sorted({*shown, keyframe})
            own.append(BoxRequest(clip, frames, keyframe, [box], masklets))
            whole.append(BoxRequest(clip, range(args.frames), keyframe, [box], masklets))
    return own, whole


def measure(args: argparse.Namespace, samples: list[Sample], keep: Callable[[dict[str, Any]], None]) -> None:
    """Seconds of a step's requests, by kind of answer and way; the median of ``--repeats`` after a warm-up. ``keep``
    gets all figures after each."""
    config = SegmenterConfig(preset=args.preset, compute_dtype=args.dtype)
    segmenter = Segmenter(config).to(args.device).eval().requires_grad_(False)
    segmenter.round_weights()
    if args.compile:
        segmenter.compile_parts()
    scorer = RequestScorer(segmenter, max_resident_frames=args.cache_frames)
    say(f"{args.preset} is built")
    found: dict[str, Any] = {}
    for kind in KINDS:
        asked = [(s, *requests_of(s, kind, args, config.prompt_width)) for s in samples]
        ways: dict[str, list[list[Any]]] = {"without": [list(own) for _, own, _ in asked]}
        for name in args.ways:
            form, some = FORMS[name]
            asks = PropagationRecipe(form, args.judged if some else None)
            timed = asked[: args.exact_prompts] if form == "exact" else asked
            ways[name] = [[*own, *(judged_request(r, s, asks) for r in whole)] for s, own, whole in timed]
        times: dict[str, list[float]] = {name: [] for name in ways}
        for name, by_clip in ways.items():
            warm = seconds(scorer, by_clip, args.device)
            say(f"{kind} {name}: warm-up {warm:.2f} s")
        for _ in range(args.repeats):
            for name, by_clip in ways.items():
                times[name].append(seconds(scorer, by_clip, args.device) * len(samples) / len(by_clip))
                say(f"{kind} {name}: {times[name][-1]:.2f} s")
                found[kind] = summary(times, args)
                keep(found)


def summary(times: dict[str, list[float]], args: argparse.Namespace) -> dict[str, Any]:
    """Of what has been timed so far."""
    median = {name: statistics.median(t) for name, t in times.items() if t}
    added = {name: round(median[name] - median["without"], 4) for name in median if name != "without"}
    figures: dict[str, Any] = {
        "seconds": {name: [round(t, 4) for t in times[name]] for name in median},
        "added_seconds": added,
        "times_without": {name: round(median[name] / median["without"], 2) for name in added},
    }
    if args.step_seconds:
        figures["share_of_step"] = {n: round(a / args.step_seconds / args.workers, 4) for n, a in added.items()}
    return figures


def say(what: str) -> None:
    print(f"{time.perf_counter() - BEGAN:7.1f} s  {what}", file=sys.stderr, flush=True)


def seconds(scorer: RequestScorer, by_clip: list[list[Any]], device: str) -> float:
    """One step's requests, a clip at a time as the pool hands them over."""
    scorer.cache.clear()
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for requests in by_clip:
        for outcome in scorer.score(requests):
            if isinstance(outcome, Exception):
                raise outcome
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16 on cuda, else float32")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="default: on cuda")
    parser.add_argument("--prompts", type=int, help="of a step; default: 12 on cuda, else 2")
    parser.add_argument("--exact-prompts", type=int, help="timed in exact ways; default: a quarter on cuda, else all")
    parser.add_argument("--rollouts", type=int, default=4, help="of a prompt")
    parser.add_argument("--frames", type=int, default=60, help="of a clip")
    parser.add_argument("--judged", type=int, default=16)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=854)
    parser.add_argument("--repeats", type=int, help="default: 1 on cuda, else 3")
    parser.add_argument("--ways", nargs="+", choices=FORMS, help="default: bounded and exact on cuda, else all")
    parser.add_argument("--threads", type=int, default=1, help="torch threads on a CPU")
    parser.add_argument("--cache-frames", type=int, default=256)
    parser.add_argument("--workers", type=int, default=1, help="pool workers among which a step's clips are divided")
    parser.add_argument("--step-seconds", type=float, help="a step without these rewards")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the result here")
    args = parser.parse_args()
    cuda = args.device == "cuda"
    args.dtype = args.dtype or ("bfloat16" if cuda else "float32")
    args.compile = cuda if args.compile is None else args.compile
    args.prompts = args.prompts or (12 if cuda else 2)
    args.exact_prompts = min(args.prompts, args.exact_prompts or (max(1, args.prompts // 4) if cuda else args.prompts))
    args.repeats = args.repeats or (1 if cuda else 3)
    args.ways = args.ways or (["bounded", "exact"] if cuda else list(FORMS))
    torch.set_num_threads(args.threads)
    result: dict[str, Any] = {
        "benchmark": "propagation_rewards",
        **environment_facts(args.device, ("torch", "sam2")),
        "settings": {k: v for k, v in vars(args).items() if k != "json"},
    }

    def keep(kinds: dict[str, Any]) -> None:
        result["kinds"] = kinds
        result["peak_gpu_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2) if cuda else None
        if args.json:
            write_json(args.json, result)

    with TemporaryDirectory() as folder:
        with ThreadPoolExecutor() as pool:
            samples = list(pool.map(lambda i: make_sample(Path(folder), i, args), range(args.prompts)))
        say(f"{args.prompts} clips of {args.frames} frames are written")
        measure(args, samples, keep)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
