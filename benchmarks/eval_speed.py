"""Clips a second of ``videoseg eval``: on N GPUs against one, and against a loop over one clip at a time.

``python -m benchmarks.eval_speed --device cuda --gpus 1,2 --policy 2b --json FILE``. The loop is Hugging Face
``generate`` and the sam2 package's own video predictor, on one GPU. Each arm is a process of its own, one after
another in one run; figures are written as they come, and an arm that runs out of ``--minutes`` counts with what it did.

Weights are random, so what the policy says is useless. Every turn decodes exactly ``--tokens`` tokens (end tokens are
ignored) and is then replaced by a written reply: select, then answer with ``[SEG]``. Both sides so do the same work on
the same clips: two turns with the frames and pixel budgets of the papers' evaluation, the ``[SEG]`` state, propagation
over all frames, RLE at the clip's size, one JSON line. An "expression" is one question on one clip.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from benchmarks.common import OUT_OF_TIME, environment_facts, run_limited, write_json

GOAL_SCALING, GOAL_SPEEDUP = 0.9, 8.0
SIZES = {
    "2b": {"clips": 16, "expressions": 8, "frames": 40, "height": 480, "width": 854, "tokens": 160, "hf": 10},
    "tiny": {"clips": 2, "expressions": 2, "frames": 8, "height": 96, "width": 128, "tokens": 8, "hf": 3},
}
"""Clips a GPU, expressions a clip (MeViS has 14), frames, pixels, tokens a turn, expressions of the loop."""
REST_SECONDS = 5.0
"""Between the last result of an arm and the end of the budget."""


def main() -> None:
    args = parse()
    work = Path(args.work).resolve()
    work.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * args.minutes
    figures: dict[str, Any] = {"benchmark": "eval_speed", "settings": settings_of(args), "arms": {}}
    if args.json and Path(args.json).is_file():
        before = json.loads(Path(args.json).read_text())
        if before.get("settings") == figures["settings"]:
            figures["arms"] = before.get("arms", {})  # arms of an earlier call, where time ran out
    arms = [f"ours@{n}" for n in args.gpus.split(",")] + ["loop"] if args.arms is None else args.arms.split(",")
    if run_arm("prepare", args, work, deadline)["error"]:
        sys.exit("the policy could not be made; see above")
    for arm in arms:
        print(f"{arm}: {deadline - time.monotonic():.0f} s left", flush=True)
        figures["arms"][arm] = {"date": datetime.now(UTC).isoformat(timespec="seconds")}
        figures["arms"][arm] |= run_arm(arm, args, work, deadline)
        conclude(figures)
        if args.json:
            write_json(args.json, {**environment_facts(args.device), **figures})
    print(table(figures))


def run_arm(arm: str, args: argparse.Namespace, work: Path, deadline: float) -> dict[str, Any]:
    """Run an arm in a process group of its own, ended at the deadline; what it wrote last."""
    file = work / f"{arm.replace('@', '_')}.json"
    file.unlink(missing_ok=True)
    left = deadline - time.monotonic() - REST_SECONDS
    if left < 10:
        return {"error": "no time left", "done": 0}
    command = [sys.executable, "-m", "benchmarks.eval_speed_process", arm, str(file), json.dumps(settings_of(args))]
    command += [str(work), str(left - REST_SECONDS)]
    log = work / f"{file.stem}.log"
    error = run_limited(command, log, left)
    found = json.loads(file.read_text()) if file.is_file() else {"done": 0}
    if error and error != OUT_OF_TIME:
        print(f"{arm}: {error}; the end of {log}:\n{log.read_text(errors='replace')[-2500:]}")
    return {**found, "error": error if error != OUT_OF_TIME or not found.get("done") else ""}


def conclude(figures: dict[str, Any]) -> None:
    """Ratios of what is there."""
    arms = figures["arms"]
    rate = {name: arm.get("expressions_per_second") for name, arm in arms.items()}
    one = rate.get("ours@1")
    figures["scaling"] = {
        name: round(value / (one * int(name.split("@")[1])), 3)
        for name, value in rate.items()
        if name.startswith("ours@") and name != "ours@1" and value and one
    }
    loop = rate.get("loop")
    figures["speedup_over_loop"] = round(one / loop, 2) if one and loop else None
    figures["goals"] = {"scaling": GOAL_SCALING, "speedup_over_loop": GOAL_SPEEDUP}


def table(figures: dict[str, Any]) -> str:
    lines = [f"{'arm':10s} {'expressions':>11s} {'seconds':>9s} {'per second':>11s}  set-up"]
    for name, arm in figures["arms"].items():
        rate, seconds = arm.get("expressions_per_second") or 0.0, arm.get("seconds") or 0.0
        setup = f"{arm.get('setup_seconds') or 0:.0f} s {arm.get('error', '')}"
        lines.append(f"{name:10s} {arm['done']:11d} {seconds:9.1f} {rate:11.3f}  {setup}")
    for name, share in figures["scaling"].items():
        lines.append(f"{name}: {share:.2f} of N times one GPU (goal {GOAL_SCALING})")
    if figures["speedup_over_loop"]:
        lines.append(f"one GPU against the loop: {figures['speedup_over_loop']:.1f}x (goal {GOAL_SPEEDUP:.0f}x)")
    return "\n".join(lines)


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    sizes = {key: getattr(args, key) or value for key, value in SIZES[args.policy].items()}
    return {"policy": args.policy, "device": args.device, "turns": 2, "seqs": args.seqs, "eager": args.eager, **sizes}


def parse(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--gpus", default="1", help="counts to measure, as in 1,2 (a CPU has one)")
    parser.add_argument("--policy", choices=sorted(SIZES), default="tiny", help="shape of the random policy")
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything")
    parser.add_argument("--arms", help="only these, as in ours@1,loop; figures in --json are kept")
    parser.add_argument("--seqs", type=int, default=32, help="dialogues in flight on one engine")
    parser.add_argument("--eager", action="store_true", help="no CUDA graphs: starts sooner, decodes slower")
    for key in SIZES["2b"]:
        parser.add_argument(
            f"--{key}", type=int, help=f"default {', '.join(f'{s[key]} ({p})' for p, s in SIZES.items())}"
        )
    parser.add_argument("--work", default="runs/benchmarks/eval_speed", help="folder for clips, policy and results")
    parser.add_argument("--json", help="write the figures here")
    return parser.parse_args(given)


if __name__ == "__main__":
    main()
