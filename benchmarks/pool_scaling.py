"""Rollouts a second of the segmenter pool with N workers, a GPU each: ``python benchmarks/pool_scaling.py --gpus 2``.

Evaluation's requests: masks of all frames of clips on disk, which a worker reads, encodes, propagates over and packs,
for several rollouts of each clip. Clips grow with the workers. Weights are random. ``benchmarks/scaling.py`` runs it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import environment_facts, see_objects, write_json
from benchmarks.eval_speed_arms import draw_clips
from rewards.segmenter.types import PropagateRequest
from rollout.types import Clip

SIZES = {
    "2b": {"clips": 8, "rollouts": 8, "frames": 40, "height": 480, "width": 854},
    "tiny": {"clips": 2, "rollouts": 4, "frames": 8, "height": 96, "width": 128},
}
"""Beside the policy of that shape. Clips are a worker's, and those of ``benchmarks/eval_speed.py``."""
WARM_UP_CLIPS, WARM_UP_FRAMES = 4, 10


def requests(clips: Sequence[Clip], rollouts: int, width: int) -> list[PropagateRequest]:
    """Random states (width,) at random keyframes."""
    rng = np.random.default_rng(0)
    return [
        PropagateRequest(clip, int(rng.integers(clip.num_frames)), rng.normal(size=width).astype(np.float32))
        for clip in clips
        for _ in range(rollouts)
    ]


def measure(work: Path, policy: str, device: str, gpus: int) -> dict[str, Any]:
    """Figures of a pool of ``gpus`` workers, after a warm-up on other clips."""
    import ray

    from rewards.pool import SegmenterPool
    from rewards.segmenter import Segmenter, SegmenterConfig

    s = SIZES[policy]
    large, cuda = policy == "2b", device == "cuda"
    config = SegmenterConfig(
        preset="sam2.1_hiera_l" if large else "tiny", compute_dtype="bfloat16" if large else "float32"
    )
    segmenter = Segmenter(config)
    see_objects(segmenter)
    clips = draw_clips(work, s, s["clips"] * gpus)
    warm = draw_clips(work, s | {"frames": WARM_UP_FRAMES}, WARM_UP_CLIPS * gpus, "pool_warm")
    weights = segmenter.model.state_dict()
    with SegmenterPool(config, weights, num_workers=gpus, num_gpus=1.0 if cuda else 0.0) as pool:
        pool.score(requests(warm, 2, config.prompt_width))
        before = ray.get([w.encoded_frames.remote() for w in pool.workers()])
        asked = requests(clips, s["rollouts"], config.prompt_width)
        start = time.monotonic()
        pool.score(asked)
        seconds = time.monotonic() - start
        after = ray.get([w.encoded_frames.remote() for w in pool.workers()])
    encoded = [b - a for a, b in zip(before, after, strict=True)]
    return {
        "workers": gpus,
        "rollouts": len(asked),
        "seconds": round(seconds, 3),
        "rollouts_per_second": round(len(asked) / seconds, 3),
        "encoded_frames_by_worker": encoded,
        "busiest_over_mean": round(max(encoded) * gpus / sum(encoded), 3),
        "settings": s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--gpus", type=int, default=1, help="workers; on a CPU, processes")
    parser.add_argument("--policy", choices=sorted(SIZES), default="tiny", help="its SAM 2: 2b has SAM 2.1-L")
    parser.add_argument("--work", default="runs/benchmarks/pool_scaling", help="folder for clips")
    parser.add_argument("--json", help="write the figures here")
    args = parser.parse_args()
    figures = measure(Path(args.work).resolve(), args.policy, args.device, args.gpus)
    print(f"{figures['workers']} workers: {figures['rollouts_per_second']} rollouts a second")
    if args.json:
        facts = {"benchmark": "pool_scaling", **environment_facts(args.device, ("torch", "sam2", "ray"))}
        write_json(args.json, facts | figures)


if __name__ == "__main__":
    main()
