"""Seconds of each phase of an RL step, measured by running one: ``python benchmarks/grpo_step.py --json FILE``.

Makes synthetic clips and a random policy (``--policy tiny`` or the published 2B shape), runs the GRPO recipe through
verl, Ray, vLLM and the segmenter pool, and prints the breakdown. On a GPU: ``--device cuda``. ``--packing none group``
measures both ways, one after the other, on the same clips and policy.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from statistics import mean, median
from typing import Any

import psutil

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from benchmarks.common import environment_facts, write_json
from verl_ext.run.run_files import scalar


def make_policy(folder: Path, shape: str, device: str, traces: list[dict[str, Any]]) -> None:
    """A random policy of the asked shape; its tokenizer is trained on the traces."""
    import torch

    from rewards.segmenter import Segmenter, SegmenterConfig
    from verl_ext.tiny.build import GPU_TINY, QWEN3_VL_2B, TinyPolicy, build_tiny_policy

    texts = [c["value"].replace("<image>", "") for t in traces for c in t["conversations"]]
    large = shape == "2b"
    size = TinyPolicy(**(QWEN3_VL_2B if large else GPU_TINY if device == "cuda" else {}))  # type: ignore[arg-type]
    preset = "sam2.1_hiera_l" if large else "tiny"
    config = SegmenterConfig(preset=preset, compute_dtype="bfloat16" if large else "float32")
    dtype = torch.bfloat16 if large else torch.float32
    build_tiny_policy(folder, texts, Segmenter(config), size, dtype=dtype, device=device)


class MeasuredError(Exception):
    """All steps that are asked for were made; whoever shows the progress ends a run by raising."""


def _enough(steps: int, done: int, total: int, what: str) -> None:
    if done >= steps:
        for process in psutil.Process().children(recursive=True):  # asked to stop, they would save
            with suppress(psutil.NoSuchProcess):
                process.kill()
        raise MeasuredError


def new_run_folder(work: Path, policy: str) -> Path:
    """Each measurement is a run of its own: a folder with checkpoints would have to be continued."""
    return next(folder for n in count(1) if not (folder := work / f"run_{policy}_{n}").exists())


def run(args: argparse.Namespace, packing: str) -> dict[str, Any]:
    """One arm: its seconds by phase, the update's MFU by our count, peak memory of the actor."""
    from data_construction.cot import TraceSettings
    from data_construction.synthetic import make_synthetic
    from verl_ext.quickstart.settings import ONE_GPU
    from verl_ext.recipe import load_recipe, override
    from verl_ext.reinforce.run import train_grpo
    from verl_ext.run.phases import step_seconds
    from verl_ext.run.run_files import fold_metrics
    from verl_ext.run.supervise import METRICS, read_metrics

    work = Path(args.work).resolve()
    large = args.policy == "2b"
    traces = TraceSettings(temporal_frames=6, spatial_frames=2, frames_per_turn=4)
    size = 448 if large else 96
    data = work / f"data_{size}"
    make_synthetic(data, {"train": args.clips, "valid": 4}, seed=0, size=size, traces=traces)
    policy = Path(args.checkpoint).resolve() if args.checkpoint else work / f"policy_{args.policy}"
    if not (policy / "config.json").exists():
        make_policy(policy, args.policy, args.device, json.loads((data / "vts_cot_train.json").read_text()))
    out = new_run_folder(work, args.policy)
    overrides = [
        override("policy.path", str(policy)),
        override("output_dir", str(out)),
        *(override(f"data.{i}.root", str(data)) for i in (0, 1)),
        override("val.0.root", str(data)),
        f"trainer.steps={args.steps + 1}",  # ended before the last, which would be saved: 25 GB at the 2B shape
        "trainer.eval_every=0",
        "trainer.save_every=0",
        *(ONE_GPU if args.device == "cuda" else []),
        *(LARGE if large else []),
        f"policy.packing={packing}",
        *args.set,
        *(args.rows_set if packing != "none" else []),
    ]
    recipe = load_recipe(Path(__file__).parents[1] / "recipes" / "quickstart" / "grpo.yaml", overrides)
    with suppress(MeasuredError):
        train_grpo(recipe, resume=False, progress=partial(_enough, args.steps))
    fold_metrics(out)
    rows = [row for row in read_metrics(out / METRICS) if row["step"] > 0]  # step 0 is an evaluation
    last = rows[-1]["data"]
    seconds = step_seconds(rows)
    mfus = [scalar(row["data"].get("perf/mfu/actor")) or 0.0 for row in rows]
    peaks = [scalar(row["data"].get("actor/perf/max_memory_allocated_gb")) or 0.0 for row in rows]
    tokens = scalar(last.get("perf/total_num_tokens"))
    return {
        "settings": [s for s in overrides if s.startswith(SAID)],
        "steps": len(rows),
        "rollouts_per_step": recipe.rollouts_per_step,
        "step_seconds": seconds,
        "update_mfu": float(median(mfus[1:] or mfus)),
        "peak_gib": max(peaks),
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


SAID = ("policy.packing", "policy.compile", "policy.gradient", "policy.row", "policy.lora", "rollout.", "trainer.")
"""Settings that a reader of the figures must know."""
INVARIANTS = ("actor/kl_loss", "actor/ppo_kl", "actor/pg_clipfrac", "training/rollout_probs_diff_max")
LARGE = [
    "policy.gradient_checkpointing=true",
    "policy.prompt_set=full",
    "rollout.budgets.low_res=32",
    "rollout.budgets.spatial=128",
    "rollout.budgets.keyframe=256",
    "rollout.prompt_length=4096",
    "rollout.response_length=2048",
    "rollout.turn_length=256",
    "rollout.engine.max_model_len=6144",
    "rollout.engine.max_num_batched_tokens=8192",
    "rollout.engine.enforce_eager=false",
    "trainer.micro_batch=4",
    "optim.lr=3e-6",
    "optim.projection_lr=3e-6",
    "optim.decoder_lr=3e-6",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the figures here")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--policy", choices=["tiny", "2b"], default="tiny", help="shape of the random policy")
    parser.add_argument("--checkpoint", help="a policy folder to use instead of a random one")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--work", default="runs/benchmarks/grpo_step", help="folder for data, policy and numbered runs")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a recipe setting")
    parser.add_argument("--rows-set", action="append", default=[], metavar="KEY=VALUE", help="not of the arm none")
    parser.add_argument("--packing", nargs="+", choices=["none", "packed", "group"], default=["none", "group"])
    args = parser.parse_args()
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
