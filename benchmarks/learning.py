"""What is learnt in the world of shapes, over seeds: ``python benchmarks/learning.py --seeds 0 1 2 --json FILE``.

Runs ``videoseg quickstart --world shapes`` once a seed (about 15 minutes each on two cores; a finished folder is not
run again) and prints mean and spread (standard deviation over seeds) of J&F, held-out reward and formats.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import environment_facts, write_json
from verl_ext.quickstart.run import run_facts
from verl_ext.quickstart.settings import QuickstartSettings

FIGURES = (
    "jf_untrained",
    "jf_predict_nothing",
    "jf_cold_start",
    "jf_taught_cold_start",
    "jf_rl",
    "jf_gain",
    "jf_gain_se",
    "jf_taught_rl",
    "jf_taught_gain",
    "jf_taught_gain_se",
    "reward_first",
    "reward_last",
    "reward_gain",
    "reward_gain_se",
    "format_cold_start",
    "format_rl",
    "format_sampled_first",
    "format_sampled_last",
    "seconds",
    "peak_memory_gib",
)


def run_seed(seed: int, work: Path) -> dict[str, Any]:
    """The summary of one quickstart; runs it unless it is there. Ends the program if it is that of another version."""
    out = work / f"seed{seed}"
    summary = out / "summary.json"
    wanted = {k: v for k, v in run_facts(seed, QuickstartSettings()).items() if k != "date"}
    if summary.exists():
        known = json.loads(summary.read_text())
        if other := [f"{k}: {known.get(k)!r}, now {v!r}" for k, v in wanted.items() if known.get(k) != v]:
            what = "; ".join(other)
            raise SystemExit(f"{summary}: figures of another run ({what}); remove {out} or give another --work")
    else:
        command = [sys.executable, "-m", "verl_ext.cli.main", "quickstart", "--world", "shapes"]
        command += ["--out", str(out), "--seed", str(seed)]
        subprocess.run(command, check=True, env={**os.environ, "OMP_WAIT_POLICY": "passive"})
    found: dict[str, Any] = json.loads(summary.read_text())
    return found


def spread_of(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean and standard deviation over the seeds that have the figure; None where too few have it."""
    known = [v for v in values if v is not None]
    mean = float(np.mean(known)) if known else None
    return {"values": list(values), "mean": mean, "spread": float(np.std(known, ddof=1)) if len(known) > 1 else None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks/learning"), help="one folder a seed")
    parser.add_argument("--json", help="write the figures here")
    args = parser.parse_args()
    summaries = {seed: run_seed(seed, args.work) for seed in args.seeds}
    table: dict[str, dict[str, Any]] = {}
    print(f"{'':24s}" + "".join(f"{'seed ' + str(s):>10s}" for s in summaries) + f"{'mean':>10s}{'spread':>10s}")
    for name in FIGURES:
        table[name] = spread_of([s.get(name) for s in summaries.values()])
        figures = [*table[name]["values"], table[name]["mean"], table[name]["spread"]]
        print(f"{name:24s}" + "".join(f"{'-':>10s}" if v is None else f"{v:10.2f}" for v in figures))
    if args.json:
        steps = {seed: s["step_seconds"] for seed, s in summaries.items()}
        facts = environment_facts()
        write_json(args.json, {"benchmark": "learning", **facts, "figures": table, "step_seconds": steps})


if __name__ == "__main__":
    main()
