"""What RL did to J&F, measured finely: ``python benchmarks/rl_gain.py --seeds 0 1 2 --json FILE``.

The quickstart evaluates 150 expressions, whose paired gain has a standard error of up to a point of J&F. This command
takes the policies that ``benchmarks/learning.py`` left, before and after RL, and evaluates both on many expressions of
clips that neither stage nor evaluation has seen. Interrupted, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import environment_facts, write_json
from verl_ext.quickstart.settings import Layout, QuickstartSettings

STAGES = ("cold_start", "rl")
OTHER_SEED = 1000
"""Added to a run's seed for clips that are not among its own."""
CLIPS_A_HUNDRED = 30
"""Clips for a hundred expressions: they hold some 170, of which the hundred are drawn."""


def gains_of(before: dict[str, float], after: dict[str, float]) -> dict[str, float | None]:
    """Means and paired gain over the same expressions, in points of J&F."""
    from verl_ext.run.gains import paired_gain

    means = {name: round(float(np.mean([*f.values()])), 3) for name, f in (("before", before), ("after", after))}
    gain = paired_gain(before, after, "jf")
    return {"expressions": len(before), **means, "gain": gain["jf_gain"], "se": gain["jf_gain_se"]}


def measure(seed: int, run: Path, expressions: int) -> dict[str, Any]:
    """Both policies of one run on ``expressions`` of other clips; ends the program if the run is not there."""
    from rich.console import Console

    from verl_ext.quickstart.evaluation import evaluate_stages
    from verl_ext.quickstart.stages import make_data
    from verl_ext.quickstart.summary import greedy_format, jf_by_expression
    from verl_ext.reinforce.run import newest_policy
    from verl_ext.run.progress import progress_bar

    own = Layout(run)
    if not own.summary.is_file():
        raise SystemExit(
            f"{own.summary}: not there; run benchmarks/learning.py --seeds {seed} first, or give its --work"
        )
    policies = {"cold_start": own.cold_start / "policy", "rl": newest_policy(own.grpo)}
    there = Layout(run.with_name(f"{run.name}_more_{expressions}"))
    clips = {"train": 2, "valid": 2, "test": max(2, expressions * CLIPS_A_HUNDRED // 100)}
    settings = replace(QuickstartSettings(), clips=clips, test_samples=expressions)
    console = Console(stderr=True)
    console.print(f"seed {seed}")
    with progress_bar(console) as show:
        make_data(there, settings, seed + OTHER_SEED, show)
        scores = evaluate_stages(there, settings, seed, policies, show)
    kinds = {row.kind for row in scores["rl"].expressions}
    groups = {"all": kinds, "taught": {*settings.taught_kinds}, "not taught": kinds - {*settings.taught_kinds}}
    found: dict[str, Any] = {
        name: gains_of(*(jf_by_expression(scores[stage], [*chosen]) for stage in STAGES))
        for name, chosen in groups.items()
        if chosen & kinds
    }
    out = {name: f for name, f in found.items() if f["se"] is not None}  # one expression alone has no error
    return out | {"greedy_format": [greedy_format(there.evaluation(stage)) for stage in STAGES]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks/learning"), help="as for learning.py")
    parser.add_argument("--expressions", type=int, default=600, help="a seed; 600 take some three minutes on two cores")
    parser.add_argument("--json", help="write the figures here")
    args = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    found = {seed: measure(seed, (args.work / f"seed{seed}").resolve(), args.expressions) for seed in args.seeds}
    print(f"{'':24s}{'n':>6s}{'before':>8s}{'after':>8s}{'gain':>8s}{'+-':>6s}")
    for seed, figures in found.items():
        before, after = figures["greedy_format"]
        for group, f in ((name, f) for name, f in figures.items() if isinstance(f, dict)):
            row = f"{f['expressions']:6d}{f['before']:8.2f}{f['after']:8.2f}{f['gain']:+8.2f}{f['se']:6.2f}"
            print(f"{f'seed {seed}, {group}':24s}{row}")
        print(f"{f'seed {seed}, greedy format':24s}{'':6s}{before:8.3f}{after:8.3f}")
    groups = {group: [f[group] for f in found.values() if group in f] for group in ("all", "taught", "not taught")}
    pooled = {group: pool(figures) for group, figures in groups.items() if figures}
    for group, p in pooled.items():
        print(f"{f'mean, {group}':24s}{'':22s}{p['gain']:+8.2f}{p['se']:6.2f}")
    if args.json:
        write_json(args.json, {"benchmark": "rl_gain", **environment_facts(), "seeds": found, "mean": pooled})


def pool(figures: list[dict[str, float]]) -> dict[str, float]:
    """The mean gain over seeds, with the error that the seeds' own errors leave in it."""
    gain = float(np.mean([f["gain"] for f in figures]))
    return {
        "gain": round(gain, 3),
        "se": round(float(np.sqrt(np.sum([f["se"] ** 2 for f in figures])) / len(figures)), 3),
    }


if __name__ == "__main__":
    main()
