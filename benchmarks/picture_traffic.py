"""Pictures of an RL step, decoded in each rollout or by reference: ``python benchmarks/picture_traffic.py --json F``.

A step of groups whose rollouts show what VideoSEG-O3's show: 10 small and 5 larger frames in the prompt, and in a
second turn 5 small ones and a keyframe, which differ between rollouts. ``images``: every rollout reads its frames, runs
the image processor and hands float32 pixels on, of which each pass of a step (log-probs, reference, update) gets a
copy. ``references``: what this project does. Each way runs in a process of its own, so that peak memory is its own;
seconds are those of the CPU, which other work on the machine does not lengthen.
"""

from __future__ import annotations

import argparse
import json
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import environment_facts, write_json

if TYPE_CHECKING:
    from rollout.messages import FramePart
    from rollout.types import Clip

PASSES = ("log-probs", "reference", "update")
SMALL, LARGE, KEYFRAME = 32, 128, 256
"""Budgets in units of 28 x 28 pixels (SPEC 2.1)."""


def make_clips(folder: Path, groups: int, height: int, width: int) -> list[Clip]:
    """Clips of 24 JPEG frames: coloured gradients with noise, which compress about as camera pictures do."""
    import numpy as np
    from PIL import Image

    from rollout.types import Clip

    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, width)[None, :, None] * np.ones((height, 1, 3))
    clips = []
    for g in range(groups):
        names = [folder / f"{g}_{t}.jpg" for t in range(24)]
        for name in names:
            noise = rng.normal(0, 8, (height // 4, width // 4, 3)).repeat(4, 0).repeat(4, 1)
            frame = ramp + rng.integers(0, 50, 3)
            frame[: noise.shape[0], : noise.shape[1]] += noise
            Image.fromarray(frame.clip(0, 255).astype(np.uint8)).save(name, quality=90)
        clips.append(Clip(str(g), tuple(map(str, names)), height, width))
    return clips


def shown(clip: Clip, rollout: int) -> list[FramePart]:
    """Frames of a dialogue of two turns; the prompt's are those of the whole group."""
    from rollout.frames import PixelBudget
    from rollout.messages import FramePart

    def parts(frames: list[int], budget: int) -> list[FramePart]:
        height, width = PixelBudget(budget).size(clip.height, clip.width)
        return [FramePart(t, height, width) for t in frames]

    start = rollout % 12
    second = [start + k for k in range(5)]
    prompt = [*parts(list(range(0, 20, 2)), SMALL), *parts([0, 5, 11, 17, 23], LARGE)]
    return [*prompt, *parts(second, SMALL), *parts([start + 3], KEYFRAME)]


def dialogues(clips: list[Clip], rollouts: int) -> Iterator[tuple[Clip, list[FramePart]]]:
    """Group after group, as a step's batch is."""
    for clip in clips:
        for n in range(rollouts):
            yield clip, shown(clip, n)


def by_images(clips: list[Clip], rollouts: int, processor: Any) -> dict[str, float]:
    from rollout.conversation import read_frames

    began = time.process_time()
    sent = []
    for clip, parts in dialogues(clips, rollouts):
        made = processor(images=read_frames(clip, parts), return_tensors="pt")
        sent.append(pickle.dumps(dict(made), protocol=5))
    rolled_out = time.process_time() - began
    began = time.process_time()
    for _ in PASSES:
        batch = [pickle.loads(row) for row in sent]  # a pass gets its whole batch before it starts
        for row in batch:
            row["pixel_values"].sum()
    return _figures(sent, rolled_out, time.process_time() - began, len(PASSES))


def by_reference(clips: list[Clip], rollouts: int, processor: Any) -> dict[str, float]:
    from rollout.chat_format import ChatFormat
    from rollout.pictures import Picture, PictureStore
    from verl_ext.policy.pictures import STORE_BYTES, PixelValues, picture_inputs

    chat = ChatFormat(*[0] * 5, frozenset(), (), None, 0)
    dialogue_store, engine_store = PictureStore(STORE_BYTES), PictureStore(STORE_BYTES)  # two processes of a run
    began = time.process_time()
    sent = []
    for clip, parts in dialogues(clips, rollouts):
        dialogue_store.of_clip(clip, parts)
        sent.append(pickle.dumps(picture_inputs(parts, chat), protocol=5))
    rolled_out = time.process_time() - began
    began = time.process_time()
    pixels = PixelValues(processor, store=engine_store)
    for _ in PASSES:
        batch = [
            [Picture(clip, *row) for row in pickle.loads(data)["pictures"].tolist()]
            for (clip, _), data in zip(dialogues(clips, rollouts), sent, strict=True)
        ]
        pixels.read_ahead(p for row in batch for p in row)
        for row in batch:
            pixels.of(row).sum()
    figures = _figures(sent, rolled_out, time.process_time() - began, len(PASSES))
    return figures | {"pictures_shown": dialogue_store.asked, "pictures_read": dialogue_store.read}


WAYS: dict[str, Callable[[list[Clip], int, Any], dict[str, float]]] = {
    "images": by_images,
    "references": by_reference,
}


def _figures(sent: list[bytes], rolled_out: float, passes: float, count: int) -> dict[str, float]:
    size = sum(map(len, sent))
    return {
        "sent_mb": size / 1e6,
        "transferred_mb_a_step": size * (1 + count) / 1e6,
        "rollout_cpu_seconds": rolled_out,
        "cpu_seconds_a_pass": passes / count,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }


def image_processor() -> Any:
    from transformers import Qwen2VLImageProcessor

    half = [0.5, 0.5, 0.5]
    limits = {"shortest_edge": 1024, "longest_edge": 1 << 24}
    return Qwen2VLImageProcessor(patch_size=16, merge_size=2, image_mean=half, image_std=half, size=limits)


def one_way(way: str, folder: Path, groups: int, rollouts: int, height: int, width: int) -> dict[str, float]:
    """In this process; memory before the work is taken off."""
    import torch

    from rollout.types import Clip

    torch.set_num_threads(1)
    names = [tuple(str(folder / f"{g}_{t}.jpg") for t in range(24)) for g in range(groups)]
    clips = [Clip(str(g), frames, height, width) for g, frames in enumerate(names)]
    processor = image_processor()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    found = WAYS[way](clips, rollouts, processor)
    return {**found, "peak_rss_mb": found["peak_rss_mb"] - before}


def measure(groups: int, rollouts: int, height: int, width: int) -> dict[str, Any]:
    """Figures of both ways, and how many times less the second sends, holds and waits."""
    ways: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        make_clips(Path(folder), groups, height, width)
        for way in WAYS:
            given = [folder, *map(str, (groups, rollouts, height, width))]
            command = [sys.executable, "-m", "benchmarks.picture_traffic", "--one", way, *given]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            ways[way] = json.loads(done.stdout.splitlines()[-1])
    old, new = ways["images"], ways["references"]
    return {
        "groups": groups,
        "rollouts_a_group": rollouts,
        "clip": [height, width],
        "ways": {way: {k: round(v, 3) for k, v in found.items()} for way, found in ways.items()},
        "ratio": {k: old[k] / new[k] for k in ("transferred_mb_a_step", "rollout_cpu_seconds", "peak_rss_mb")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the figures here")
    parser.add_argument("--groups", type=int, default=12)
    parser.add_argument("--rollouts", type=int, default=4, help="of a group")
    parser.add_argument("--size", type=int, nargs=2, default=[480, 854], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        way, folder, *numbers = args.one
        print(json.dumps(one_way(way, Path(folder), *map(int, numbers))))
        return
    figures = measure(args.groups, args.rollouts, *args.size)
    for way, found in figures["ways"].items():
        print(way, found)
    print("ratio", {k: round(v, 1) for k, v in figures["ratio"].items()})
    if args.json:
        write_json(args.json, {"benchmark": "picture_traffic", **environment_facts("cpu"), **figures})


if __name__ == "__main__":
    main()
