"""Seconds of each phase of an RL step, measured by running one: ``python benchmarks/grpo_step.py --json FILE``.

Makes synthetic clips and a random policy (``--policy``: a tiny one or the published 2B shape with ``[SEG]`` masks, or
with boxes ``tiny_boxes`` and ``3b``, which is Veason-R1's), runs its GRPO recipe through verl, Ray, vLLM and the pool
of segmenters, and prints the breakdown. On a GPU: ``--device cuda``. ``--packing none group`` measures both ways, one
after the other, on the same clips and policy. Groups of eight: ``--set rollout.group_size=8``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from statistics import mean, median
from typing import Any

import psutil

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from benchmarks.common import environment_facts, write_json
from benchmarks.device_watch import DeviceWatch
from benchmarks.grpo_shapes import SHAPES, step_recipe
from verl_ext.run.run_files import scalar


class MeasuredError(Exception):
    """All steps that are asked for were made; whoever shows the progress ends a run by raising."""


class _Pace:
    """Shows the progress of a run and ends it: after ``steps``, or at ``deadline`` if there was a step by then."""

    def __init__(self, steps: int, deadline: float, watch: DeviceWatch) -> None:
        self._steps, self._deadline, self._watch = steps, deadline, watch
        self._done = 0

    def __call__(self, done: int, total: int, what: str) -> None:
        if done > self._done == 0 and self._steps > 1:
            self._watch.mark()  # the first step warms up
        self._done = done
        if done >= self._steps or (done and time.monotonic() > self._deadline):
            for process in psutil.Process().children(recursive=True):  # asked to stop, they would save
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            raise MeasuredError


def new_run_folder(work: Path, policy: str) -> Path:
    """Each measurement is a run of its own: a folder with checkpoints would have to be continued."""
    return next(folder for n in count(1) if not (folder := work / f"run_{policy}_{n}").exists())


def run(args: argparse.Namespace, packing: str) -> dict[str, Any]:
    """One arm: its seconds by phase, the update's MFU by our count, peak memory of the actor, share of idle."""
    from verl_ext.reinforce.run import train_grpo
    from verl_ext.run.phases import step_seconds
    from verl_ext.run.run_files import fold_metrics
    from verl_ext.run.supervise import METRICS, read_metrics

    deadline = time.monotonic() + 60 * args.minutes
    work = Path(args.work).resolve()
    out = new_run_folder(work, args.policy)
    settings = [
        f"trainer.steps={args.steps + 1}",  # ended before the last, which would be saved: 25 GB at the 2B shape
        "trainer.eval_every=0",
        "trainer.save_every=0",
        f"policy.packing={packing}",
        *args.set,
        *(args.rows_set if packing != "none" else []),
    ]
    given = Path(args.checkpoint).resolve() if args.checkpoint else None
    recipe, settings = step_recipe(work, args.policy, args.device, out, settings, clips=args.clips, policy=given)
    with DeviceWatch(args.device) as watch:
        with suppress(MeasuredError):
            train_grpo(recipe, resume=False, progress=_Pace(args.steps, deadline, watch))
        busy = watch.figures()
    fold_metrics(out)
    rows = [row for row in read_metrics(out / METRICS) if row["step"] > 0]  # step 0 is an evaluation
    if not rows:
        raise SystemExit(f"{out}: no step was finished in {args.minutes:g} minutes; see train.log there")
    last = rows[-1]["data"]
    seconds = step_seconds(rows)
    mfus = [scalar(row["data"].get("perf/mfu/actor")) or 0.0 for row in rows]
    peaks = [scalar(row["data"].get("actor/perf/max_memory_allocated_gb")) or 0.0 for row in rows]
    tokens = scalar(last.get("perf/total_num_tokens"))
    return {
        "settings": [s for s in settings if s.startswith(SAID)],
        "steps": len(rows),
        "rollouts_per_step": recipe.rollouts_per_step,
        "step_seconds": seconds,
        "update_mfu": float(median(mfus[1:] or mfus)),
        "peak_gib": max(peaks),
        "longest_row": max(scalar(row["data"].get("actor/longest_row")) or 0 for row in rows),
        **busy,
        "first_step": {k: scalar(rows[0]["data"].get(k)) for k in INVARIANTS},
        "tokens_per_step": tokens,
        "throughput": throughput([row["data"] for row in rows]),
        "stop": {k: scalar(v) for k, v in last.items() if k.startswith("stop/")},
        "reward_mean": scalar(last.get("reward/mean")),
    }


def throughput(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of a run's steps but the first: tokens of prompts and replies a second of steps, the share of the pool's answers
    that no step waited for, the median seconds of a sync of weights to vLLM, the mean age of rollouts in updates."""

    def values(name: str) -> list[float]:
        return [scalar(row.get(name)) or 0.0 for row in (rows[1:] or rows)]

    return {
        "tokens_per_second": sum(values("perf/total_num_tokens")) / sum(values("timing_s/step")),
        "hidden_share": mean(values("pool/hidden_share")),
        "sync_seconds": median(values("timing_s/update_weights")),
        "staleness": mean(values("rollout/staleness_mean")),
    }


SAID = (
    "policy.packing",
    "policy.compile",
    "policy.gradient",
    "policy.row",
    "policy.lora",
    "policy.dtype",
    "rollout.",
    "trainer.",
)
"""Settings that a reader of the figures must know."""
INVARIANTS = ("actor/kl_loss", "actor/ppo_kl", "actor/pg_clipfrac", "training/rollout_probs_diff_max")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the figures here")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--policy", choices=SHAPES, default="tiny", help="shape of the random policy")
    parser.add_argument("--checkpoint", help="a policy folder to use instead of a random one")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--work", default="runs/benchmarks/grpo_step", help="folder for data, policy and numbered runs")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a recipe setting")
    parser.add_argument("--rows-set", action="append", default=[], metavar="KEY=VALUE", help="not of the arm none")
    parser.add_argument("--minutes", type=float, default=60.0, help="an arm ends then, with the steps that it has")
    parser.add_argument("--packing", nargs="+", choices=["none", "packed", "group"], default=["none", "group"])
    args = parser.parse_args()
    if args.policy == "3b" and args.device != "cuda":
        parser.error("--policy 3b runs with --device cuda alone; tiny_boxes is the same small, on a CPU")
    arms: dict[str, Any] = {}
    if args.json and Path(args.json).is_file():  # two calls, one after the other, where one would take too long
        arms = json.loads(Path(args.json).read_text(encoding="utf-8")).get("arms", {})
    for packing in args.packing:
        arms[packing] = figures = run(args, packing)
        print(
            f"{packing}: {figures['rollouts_per_step']} rollouts a step, seconds by phase ({figures['steps']} steps):"
        )
        for phase, seconds in figures["step_seconds"].items():
            print(f"  {phase:12s} {seconds:8.3f}")
        print(f"  update's MFU {figures['update_mfu']:.3f}, peak {figures['peak_gib']:.1f} GiB")
        print("  first step (0 expected):", figures["first_step"], flush=True)
        if args.json:  # after each arm: a machine may go before the last
            facts = {"benchmark": "grpo_step", **environment_facts(args.device), "policy": args.policy}
            write_json(args.json, {**facts, "arms": arms})


if __name__ == "__main__":
    main()
