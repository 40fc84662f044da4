"""What N GPUs of one machine bring: ``python benchmarks/scaling.py --device cuda --gpus N``, in under ten minutes.

At Qwen3-VL-2B and SAM 2.1-L with random weights (``--device cpu``: tiny ones, processes for GPUs), in these parts:

- ``step``: `benchmarks.grpo_step` on N GPUs with N times the prompts, in each mode that ``trainer.mode`` has: seconds
  by phase, rollouts/s, tokens/s, MFU, peak memory, share of idle;
- ``eval``: expressions/s of `benchmarks.eval_speed`, N times the clips;
- ``pool``: rollouts/s of `benchmarks.pool_scaling`, N workers and N times the clips;
- ``sync``: what weights take to vLLM and to the pool, from the steps.

Each part is a process of its own and is written as soon as it is there; a file of the same settings is gone on with, so
that ``--parts`` of an earlier call stay. The synchronous step comes first and the other modes last. By default the
figures go to ``benchmarks/results/scaling_NxDEVICE.json``, from which ``docs/performance.py`` draws.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_type_hints

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from benchmarks import eval_speed
from benchmarks.common import OUT_OF_TIME, environment_facts, run_limited, write_json

ROOT = Path(__file__).parents[1]
PARTS = ("step", "eval", "pool", "sync")
MODES = ("sync", "colocate_async", "separate_async")
"""Of ``trainer.mode``, should the recipe have it."""
SEPARATE = "separate_async"
"""Rolls out on other GPUs than it updates on, so that it needs two."""
PROMPTS = {"2b": 12, "tiny": 2}
"""Of a step, for each GPU."""
CLIPS = {"2b": 24, "tiny": 12}
"""Training clips, for each two GPUs."""
STEP_SETTINGS = {"2b": ("policy.gradient_checkpointing=false",), "tiny": ()}
"""Nothing is compiled: a first step that takes a minute longer would leave too little of ten."""
MOST = {"step": 0.45, "eval": 0.35, "pool": 0.25}
"""Shares of the time that one measurement may take, so that one that hangs leaves something to the others; with few to
come after it, it may take what they leave."""
FIGURES = ("step_seconds", "expressions_per_second", "rollouts_per_second")
"""A measurement without any of these has failed."""
RESERVE_S = 15.0
"""A part is told to end so long before it is ended."""
LEAST_STEPS = 2
"""After the first: one alone is slowed by what is made once (2.5 times, on an H200)."""
LEAST_S = 30.0
"""With less left, no part is begun."""


@dataclass(frozen=True)
class Setup:
    """What is measured, and where."""

    gpus: int
    device: str
    policy: str
    steps: int
    work: Path
    more: tuple[str, ...]
    """Recipe settings of the step, last; one for a single mode has ``MODE:`` before it."""

    def said(self) -> dict[str, Any]:
        return {
            "gpus": self.gpus,
            "device": self.device,
            "policy": self.policy,
            "steps": self.steps,
            "prompts_per_step": PROMPTS[self.policy] * self.gpus,
            "set": list(self.more),
        }


def why_not(mode: str, gpus: int) -> str:
    """Why a mode cannot be measured here; empty if it can."""
    from verl_ext.recipe.training import TrainerRecipe

    known = get_args(get_type_hints(TrainerRecipe).get("mode")) or ("sync",)
    if mode not in known:
        return f"trainer.mode has no {mode} here"
    return f"{mode} needs two GPUs" if mode == SEPARATE and gpus < 2 else ""


def step(setup: Setup, mode: str, seconds: float) -> dict[str, Any]:
    """A step in one mode."""
    if reason := why_not(mode, setup.gpus):
        return {"skipped": reason}
    file = setup.work / f"step_{mode}.json"
    file.unlink(missing_ok=True)
    n = setup.gpus
    updating = n // 2 if mode == SEPARATE else n
    settings = [f"trainer.prompts_per_step={PROMPTS[setup.policy] * n}", f"trainer.actor_processes={updating}"]
    settings += [f"trainer.gpus_per_node={n}"] if setup.device == "cuda" else []
    settings += [f"trainer.mode={mode}"] if mode != "sync" else []
    settings += [f"trainer.rollout_processes={n - updating}"] if mode == SEPARATE else []
    command = [sys.executable, "-m", "benchmarks.grpo_step", "--device", setup.device, "--policy", setup.policy]
    command += ["--packing", "group", "--steps", str(setup.steps), "--work", str(setup.work / "step")]
    command += ["--clips", str(CLIPS[setup.policy] * ((n + 1) // 2)), "--json", str(file)]
    command += ["--minutes", str((seconds - RESERVE_S) / 60)]
    for setting in (*settings, *STEP_SETTINGS[setup.policy], *in_mode(setup.more, mode)):
        command += ["--set", setting]
    error = run_child(command, setup.work / f"step_{mode}.log", seconds)
    if not file.is_file():
        return {"error": error}
    whole = json.loads(file.read_text())
    arm = whole["arms"]["group"]
    if arm["steps"] < LEAST_STEPS:
        return {"error": f"{error or 'ended'} after {arm['steps']} step"}
    spent = arm["step_seconds"]["step"]
    tokens = arm["tokens_per_step"]
    return {
        "date": whole["date"],
        "versions": whole["versions"],
        **{key: arm[key] for key in ("settings", "steps", "rollouts_per_step", "tokens_per_step", "step_seconds")},
        "rollouts_per_second": round(arm["rollouts_per_step"] / spent, 3),
        "tokens_per_second": round(tokens / spent, 1) if tokens else None,
        **{key: arm[key] for key in ("update_mfu", "peak_gib", "idle_share", "device_peak_gib") if key in arm},
        "stop": arm["stop"],
        "weights_gib": round(weights_gib(setup.work / "step" / f"policy_{setup.policy}"), 3),
        "error": error,
    }


def in_mode(settings: Sequence[str], mode: str) -> list[str]:
    """``KEY=VALUE`` of those that are for every mode or for this one."""
    split = [(s.partition(":") if s.partition(":")[0] in MODES else ("", "", s)) for s in settings]
    return [setting for only, _, setting in split if only in ("", mode)]


def evaluation(setup: Setup, seconds: float) -> dict[str, Any]:
    """Ours of ``eval_speed`` on N GPUs."""
    args = eval_speed.parse(["--device", setup.device, "--policy", setup.policy])
    work, deadline = setup.work / "eval", time.monotonic() + seconds
    work.mkdir(parents=True, exist_ok=True)
    if error := eval_speed.run_arm("prepare", args, work, deadline)["error"]:
        return {"error": error}
    found = eval_speed.run_arm(f"ours@{setup.gpus}", args, work, deadline)
    return {"settings": eval_speed.settings_of(args), **{k: v for k, v in found.items() if k != "written"}}


def pool(setup: Setup, seconds: float) -> dict[str, Any]:
    """`benchmarks.pool_scaling`, over clips of the evaluation's."""
    file = setup.work / "pool.json"
    file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.pool_scaling", "--device", setup.device, "--gpus", str(setup.gpus)]
    command += ["--policy", setup.policy, "--work", str(setup.work / "eval" / "clips"), "--json", str(file)]
    error = run_child(command, setup.work / "pool.log", seconds)
    found = json.loads(file.read_text()) if file.is_file() else {}
    known = {"benchmark", *environment_facts()}
    return {k: v for k, v in found.items() if k not in known} | {"error": error}


def sync(steps: dict[str, Any]) -> dict[str, Any]:
    """Seconds and GiB/s of the weights' way from the actor, by mode."""
    out = {}
    for mode, found in steps.items():
        taken = {k: v for k, v in found.get("step_seconds", {}).items() if k.startswith("sync")}
        if taken.get("sync"):
            out[mode] = {"seconds": taken, "gib_per_second": round(found["weights_gib"] / taken["sync"], 2)}
    return out


def weights_gib(folder: Path) -> float:
    """Of a policy's language and vision model."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 2**30


def run_child(command: list[str], log: Path, seconds: float) -> str:
    """What went wrong, which is also shown."""
    error = run_limited(command, log, seconds)
    if error and error != OUT_OF_TIME:
        print(f"{error}; the end of {log}:\n{log.read_text(errors='replace')[-2500:]}", flush=True)
    return error


def jobs(parts: list[str], modes: list[str], setup: Setup) -> Iterator[tuple[str, str, Callable[[float], Any]]]:
    """(part, mode or nothing, what measures it within so many seconds), the most wanted first."""
    first, *others = modes
    if "step" in parts:
        yield "step", first, partial(step, setup, first)
    if "eval" in parts:
        yield "eval", "", partial(evaluation, setup)
    if "pool" in parts:
        yield "pool", "", partial(pool, setup)
    for mode in others if "step" in parts else []:
        yield "step", mode, partial(step, setup, mode)


def measure(args: argparse.Namespace, setup: Setup, file: Path) -> dict[str, Any]:
    """Runs the parts until the time is up; what was measured before under the same settings stays."""
    if setup.gpus > 1:  # NVLink multicast can put a shared host's GPUs out of service
        os.environ["NCCL_NVLS_ENABLE"] = "0"
    deadline = time.monotonic() + 60 * args.minutes
    figures: dict[str, Any] = {"benchmark": "scaling", "settings": setup.said()}
    if file.is_file() and (before := json.loads(file.read_text())).get("settings") == setup.said():
        figures |= {part: before[part] for part in PARTS if part in before}
    facts = environment_facts(setup.device)
    wanted = [*jobs(args.parts, args.modes, setup)]
    for number, (part, mode, job) in enumerate(wanted):
        left = deadline - time.monotonic()
        name = f"{part} {mode}".strip()
        print(f"{name}: {left:.0f} s left", flush=True)
        found: dict[str, Any] = {"error": "no time left"}
        if left > LEAST_S:
            began = datetime.now(UTC).isoformat(timespec="seconds")
            share = MOST[part] / sum(MOST[later] for later, _, _ in wanted[number:])
            found = {"date": began, **job(min(left, max(60 * args.minutes * MOST[part], left * share)))}
        print(f"{name}: {found.get('skipped') or found.get('error') or 'measured'}", flush=True)
        kept, key = (figures.setdefault(part, {}), mode) if mode else (figures, part)
        if any(figure in found for figure in FIGURES) or key not in kept:  # a failure does not replace figures
            kept[key] = found
        if "sync" in args.parts and "step" in figures:
            figures["sync"] = sync(figures["step"])
        write_json(file, facts | figures)
    if args.parts == ["sync"]:
        figures["sync"] = sync(figures.get("step", {}))
        write_json(file, facts | figures)
    return figures


def table(figures: dict[str, Any]) -> str:
    lines = []
    for mode, found in figures.get("step", {}).items():
        if "step_seconds" not in found:
            lines.append(f"step, {mode}: {found.get('skipped') or found.get('error')}")
            continue
        phases = ", ".join(f"{phase} {seconds:.2f}" for phase, seconds in found["step_seconds"].items())
        lines.append(f"step, {mode}: {found['rollouts_per_second']} rollouts/s, {found['tokens_per_second']} tokens/s")
        lines.append(f"  seconds: {phases}")
        shown = {k: found.get(k) for k in ("update_mfu", "peak_gib", "idle_share", "device_peak_gib")}
        lines.append("  " + ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in shown.items()))
    for part, rate in (("eval", "expressions_per_second"), ("pool", "rollouts_per_second")):
        if rate in figures.get(part, {}):
            lines.append(f"{part}: {figures[part][rate]} {rate.replace('_', ' ')}")
    for mode, found in figures.get("sync", {}).items():
        lines.append(f"sync, {mode}: {found['seconds']}, {found['gib_per_second']} GiB/s")
    return "\n".join(lines)


def default_file(gpus: int, device: str, name: str) -> Path:
    """``scaling_2xh200.json`` of ``NVIDIA H200``; figures of a CPU are those of a toy and no result."""
    if device == "cpu":
        return ROOT / "runs" / "benchmarks" / "scaling" / f"scaling_{gpus}xcpu.json"
    short = next(word for word in name.lower().split() if word != "nvidia")
    return ROOT / "benchmarks" / "results" / f"scaling_{gpus}x{short}.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=1, help="N; on a CPU, processes")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--policy", choices=sorted(PROMPTS), help="default: 2b on cuda, tiny on a CPU")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--modes", nargs="+", default=[*MODES], help="of trainer.mode; what is not there is skipped")
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything")
    parser.add_argument("--steps", type=int, default=4, help="of RL in each mode; the first warms up")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="[MODE:]KEY=VALUE",
        help="a recipe setting of the step, of one mode alone as separate_async:trainer.actor_processes=3",
    )
    parser.add_argument("--work", default="runs/benchmarks/scaling", help="folder for clips, policies and runs")
    parser.add_argument("--json", help="write the figures here")
    args = parser.parse_args()
    policy = args.policy or ("2b" if args.device == "cuda" else "tiny")
    setup = Setup(args.gpus, args.device, policy, args.steps, Path(args.work).resolve(), tuple(args.set))
    name = environment_facts(args.device)["device"]
    file = Path(args.json) if args.json else default_file(args.gpus, args.device, name)
    if "sync" in args.parts and "step" not in args.parts and not file.is_file():
        parser.error("--parts sync is read off the steps; name step too")
    print(table(measure(args, setup, file)))
    print(file)


if __name__ == "__main__":
    main()
