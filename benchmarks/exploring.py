"""Does reinforcement raise J&F where exploring pays, and which form of it? One cold start, many arms, paired.

``python benchmarks/exploring.py --device cuda --seeds 0 1 2 --json benchmarks/results/exploring.json``
``python benchmarks/exploring.py --world twins --device cuda --json benchmarks/results/exploring_twins.json``

The second world is one in which the ``[SEG]`` state itself is what the cold start gets wrong.

Everything is resumable: with ``--minutes 25`` it trains what fits, evaluates what is trained, writes what is known, and
the same command goes on from there. ``--device cpu`` runs the same at toy size. Predictions: docs/learning.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import environment_facts, write_json
from benchmarks.exploring_arms import BASE, WORLD_ARMS, Arm
from rollout.orphans import end_with_parent
from verl_ext.quickstart.exploring import exploring_settings
from verl_ext.quickstart.settings import Layout, QuickstartSettings
from verl_ext.quickstart.twins import twin_settings

COLD = "cold_start"
SETTINGS = {"badges": exploring_settings, "twins": twin_settings}
"""By world: device and RL steps -> sizes."""
CPU_STEPS = 40
"""Of every arm on a CPU; on a GPU the recipe's."""
EVALUATION_SHARE = 0.25
"""Of ``--minutes``, kept for evaluating what was trained."""


def cold_start(study: Layout, settings: QuickstartSettings, seed: int) -> None:
    """Data, policy, both supervised stages; each only if it is not there yet."""
    from rich.console import Console

    from verl_ext.quickstart import stages
    from verl_ext.quickstart.run import StageClock, check_continues

    study.out.mkdir(parents=True, exist_ok=True)
    check_continues(study, seed, settings)
    there = stages.what_is_there(study)
    clock = StageClock(study.out / "seconds.json", Console())
    for title, name, step in (
        ("clips", "data", stages.make_data),
        ("policy and its SAM 2", "policy", stages.build_policy),
        ("reading", "segmentation", stages.segmentation),
        ("cold start", "cold_start", stages.cold_start),
    ):
        with clock.stage(title, there[name]) as progress:
            step(study, settings, seed, progress)


def oracles(study: Layout, settings: QuickstartSettings) -> dict[str, Any]:
    """Of the study's own clips and budgets; measured once."""
    from eval.oracles import OracleSettings, measure_oracles
    from verl_ext.quickstart.settings import stage_recipe

    path = study.out / "oracles.json"
    if not path.exists():
        shown = stage_recipe(study, "grpo.yaml", settings, 0).rollout
        budgets = (shown.budgets.low_res, shown.budgets.spatial, shown.budgets.keyframe)
        wanted = OracleSettings(*budgets, shown.initial_low_res, shown.initial_spatial)
        write_json(path, measure_oracles(study.data, "test", wanted).to_dict())
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def run_arms(
    study: Layout, settings: QuickstartSettings, arms: Sequence[Arm], deadline: float, jobs: int = 1
) -> list[Arm]:
    """Train what is not trained, in order and ``jobs`` at a time; none begins after the deadline (of the machine's
    monotonic clock). Returns those that are trained; why others are not is printed."""
    if jobs == 1:
        for arm in arms:
            train_arm(arm, study, settings, deadline)
        return [arm for arm in arms if arm.done(study)]
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), end_with_parent) as pool:
        running = {arm.key: pool.submit(train_arm, arm, study, settings, deadline) for arm in arms}
    for key, found in running.items():
        if error := found.exception():  # the others' work is not lost for it
            print(f"{key}: {error}", flush=True)
    return [arm for arm in arms if arm.done(study)]


def train_arm(arm: Arm, study: Layout, settings: QuickstartSettings, deadline: float) -> None:
    """In a process of its own, which is what a signal to stop is sent to."""
    if arm.done(study) or time.monotonic() >= deadline:
        return

    said = ""

    def progress(done: int, total: int, what: str) -> None:
        nonlocal said
        line = f"{arm.key}: {done}/{total} {what}"
        if line != said:  # it is told again and again
            print(line, flush=True)
        said = line

    arm.train(study, settings, progress)


def figures_of(scores: Any, folder: Path) -> dict[str, Any]:
    """Of one evaluation: J&F by expression, and means of what exploring is told by."""
    from eval.results.results_file import RESULTS_FILE, read_results
    from verl_ext.quickstart.summary import greedy_format, jf_by_expression

    rows, records = scores.expressions, read_results(folder / RESULTS_FILE)
    return {
        "by_expression": jf_by_expression(scores),
        "jf": scores.overall.metrics["jf"].mean,
        "keyframe_hit": float(np.mean([row.keyframe_hit or 0.0 for row in rows])),
        "interval_iou": float(np.mean([row.interval_iou or 0.0 for row in rows])),
        "turns": float(np.mean([len(record.turns) for record in records])),
        "format": greedy_format(folder),
    }


def study_figures(evaluated: dict[str, dict[str, Any]], arms: Sequence[Arm]) -> dict[str, Any]:
    """The contract: ``cold_start.jf``, ``rl`` (the base arm over its cold start, a list over seeds), ``arms``."""
    cold = evaluated[COLD]
    out: dict[str, Any] = {
        COLD: {k: v for k, v in cold.items() if k != "by_expression"},
        "rl": {"arm": BASE},
        "arms": {},
    }
    found = {arm: evaluated[arm.evaluation] for arm in arms if arm.evaluation in evaluated}
    base = {arm.seed: f for arm, f in found.items() if arm.name == BASE}
    gains = [paired(cold["by_expression"], base[seed]["by_expression"]) for seed in sorted(base)]
    out["rl"] |= {
        "seeds": sorted(base),
        "jf_gain": [g[0] for g in gains],
        "jf_gain_se": [g[1] for g in gains],
        "keyframe_hit_gain": [round(base[s]["keyframe_hit"] - cold["keyframe_hit"], 2) for s in sorted(base)],
        "turns_gain": [round(base[s]["turns"] - cold["turns"], 3) for s in sorted(base)],
    }
    for name in dict.fromkeys(arm.name for arm in found):
        runs = {arm.seed: f for arm, f in found.items() if arm.name == name}
        over_base = [f["jf"] - base[seed]["jf"] for seed, f in runs.items() if seed in base]
        over_cold = [paired(cold["by_expression"], f["by_expression"])[0] for f in runs.values()]
        means = {k: round(float(np.mean([f[k] for f in runs.values()])), 3) for k in FIGURES}
        mean, error = over_seeds(over_base)
        out["arms"][name] = {"jf_gain": mean, "se": error, "seeds": sorted(runs), "over_cold_start": over_cold, **means}
    return out


FIGURES = ("jf", "keyframe_hit", "interval_iou", "turns", "format")
CURVES = ("reward/mean", "reward/mask_iou", "reward/strict_format")
"""Means over a step's sampled rollouts, on training clips."""


def curves_of(arms: Sequence[Arm], study: Layout) -> dict[str, dict[str, list[float]]]:
    """By arm and seed, then by metric: a value for each RL step."""
    from verl_ext.run.run_files import METRICS, read_metrics

    found = {}
    for arm in arms:
        rows = [row["data"] for row in read_metrics(arm.folder(study) / METRICS) if CURVES[0] in row["data"]]
        if rows:
            found[arm.key] = {name: [round(float(row[name]), 3) for row in rows if name in row] for name in CURVES}
    return found


def paired(before: dict[str, float], after: dict[str, float]) -> tuple[float, float]:
    """Mean and standard error of the difference over the same expressions, in points of J&F."""
    change = np.array([after[name] - before[name] for name in before if name in after])
    error = float(change.std(ddof=1) / np.sqrt(len(change))) if len(change) > 1 else 0.0
    return round(float(change.mean()), 3), round(error, 3)


def over_seeds(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and its standard error over seeds; None where there are too few."""
    mean = round(float(np.mean(values)), 3) if values else None
    return mean, round(float(np.std(values, ddof=1) / np.sqrt(len(values))), 3) if len(values) > 1 else None


def run_study(
    study: Layout,
    settings: QuickstartSettings,
    names: Sequence[str],
    seeds: Sequence[int],
    minutes: float | None,
    jobs: int = 1,
) -> dict[str, Any]:
    """All of it that fits ``minutes``; what ``--json`` holds."""
    from rich.console import Console

    from verl_ext.quickstart.evaluation import evaluate_stages
    from verl_ext.run.progress import progress_bar

    began = time.monotonic()
    deadline = began + 60 * minutes * (1 - EVALUATION_SHARE) if minutes else float("inf")
    cold_start(study, settings, seed=0)
    proved = oracles(study, settings)
    arms = [Arm(name, seed) for seed in seeds for name in names]
    trained = run_arms(study, settings, arms, deadline, jobs)
    policies = {COLD: study.cold_start / "policy"} | {arm.evaluation: arm.policy(study) for arm in trained}
    with progress_bar(Console()) as progress:
        scores = evaluate_stages(study, settings, 0, policies, progress)
    evaluated = {stage: figures_of(found, study.evaluation(stage)) for stage, found in scores.items()}
    left = [arm.key for arm in arms if arm not in trained]
    jf = {name: found["jf"] for name, found in proved["oracles"].items()}
    figures = study_figures(evaluated, arms)
    return {
        "oracles": jf,
        "readers": proved["readers"],
        **figures,
        "curves": curves_of(trained, study),
        "left": left,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--world", choices=[*SETTINGS], default="badges", help="twins: the [SEG] state is what is wrong"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of RL; the cold start's is 0")
    parser.add_argument("--arms", nargs="+", help="by default all of the world's")
    parser.add_argument("--steps", type=int, help="RL steps of every arm; default: the recipe's, 40 on a CPU")
    parser.add_argument("--minutes", type=float, help="stop training after three quarters of so many, then evaluate")
    parser.add_argument("--jobs", type=int, default=1, help="arms trained at a time: a policy this small fills no GPU")
    parser.add_argument("--work", type=Path, help="default: runs/benchmarks/exploring, or exploring_WORLD")
    parser.add_argument("--json", help="write the figures here")
    args = parser.parse_args()
    known = WORLD_ARMS[args.world]
    if unknown := [name for name in args.arms or [] if name not in known]:
        parser.error(f"--arms {unknown[0]}: world {args.world} has {', '.join(known)}")
    place = "exploring" if args.world == "badges" else f"exploring_{args.world}"
    work = args.work or Path("runs/benchmarks") / place
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    settings = SETTINGS[args.world](args.device, args.steps or (CPU_STEPS if args.device == "cpu" else None))
    names = list(dict.fromkeys([BASE, *(args.arms or known)]))
    found = run_study(Layout(work.resolve()), settings, names, args.seeds, args.minutes, args.jobs)
    print(json.dumps({k: v for k, v in found.items() if k not in ("readers", "curves")}, indent=1))
    if args.json:
        write_json(
            args.json, {"benchmark": "exploring", "world": args.world, **environment_facts(args.device), **found}
        )


if __name__ == "__main__":
    main()
