"""What keeping rollouts costs a step: ``python benchmarks/keep_rollouts.py RUN --json FILE``.

RUN is the folder of a finished run that kept its rollouts (``python benchmarks/grpo_step.py`` leaves one). Its own
groups are encoded and written again, and the processor seconds of each part set against the run's own steps:

* ``masks``: the pool encodes the decoded masks as RLE (in the pool's processes);
* ``collect``: the training process reads columns from the queue, as the run's timer ``keep_rollouts`` says;
* ``write``: groups are put together and written (in a thread beside the training).

``share`` counts all three as if nothing ran beside anything.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import environment_facts, write_json
from rollout.types import decode_rle
from verl_ext.rollout_log import KeptGroup, read_group, read_header, step_files, write_step
from verl_ext.run.run_files import METRICS, read_metrics, scalar


def measure(run: Path) -> dict[str, Any]:
    from rewards.segmenter.masks import encode_rles

    steps = []
    for file in step_files(run):
        header = read_header(file, run)
        groups = [read_group(file, header, i, run) for i in range(len(header["groups"]))]
        masks = [np.stack([decode_rle(rle) for rle in turn.masks.values()]) for turn in turns_of(groups) if turn.masks]

        def encode(masks: list[Any] = masks) -> None:
            for some in masks:
                encode_rles(some)

        def write(groups: list[KeptGroup] = groups, step: int = file.step) -> None:
            with tempfile.TemporaryDirectory() as out:
                write_step(Path(out), step, [KeptGroup.from_dict(g.to_dict()) for g in groups])

        steps.append(
            {
                "masks": seconds(encode),
                "write": seconds(write),
                "bytes": file.path.stat().st_size,
                "rollouts": sum(len(g.rollouts) for g in groups),
            }
        )
    rows = [row["data"] for row in read_metrics(run / METRICS) if row["step"] > 0]
    step = statistics.median(filter(None, (scalar(row.get("timing_s/step")) for row in rows)))
    out = {part: statistics.median(s[part] for s in steps) for part in ("masks", "write")}
    out["collect"] = statistics.median(scalar(row.get("timing_s/keep_rollouts")) or 0.0 for row in rows)
    return {
        "steps": len(steps),
        "rollouts_a_step": statistics.median(s["rollouts"] for s in steps),
        "bytes_a_step": int(statistics.median(s["bytes"] for s in steps)),
        "step_s": round(step, 3),
        **{f"{part}_s": round(value, 4) for part, value in out.items()},
        "share": round(sum(out.values()) / step, 5),
    }


def turns_of(groups: list[KeptGroup]) -> list[Any]:
    return [turn for group in groups for rollout in group.rollouts for turn in rollout.turns]


def seconds(what: Callable[[], None]) -> float:
    """Of the processor, the least of three."""
    times = []
    for _ in range(3):
        began = time.process_time()
        what()
        times.append(time.process_time() - began)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run that kept its rollouts")
    parser.add_argument("--json", help="write the figures here")
    args = parser.parse_args()
    figures = measure(args.run)
    for name, value in figures.items():
        print(f"{name:16s} {value}")
    if args.json:
        write_json(args.json, {"benchmark": "keep_rollouts", **environment_facts(), **figures})


if __name__ == "__main__":
    main()
