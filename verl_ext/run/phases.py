"""Where the time of an RL step goes, by names that mean something: out of the timers that verl logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from verl_ext.run.run_files import scalar

PHASES = {
    "rollout": "gen",
    "seg_states": "old_log_prob",
    "pool": "pool",
    "reference": "ref",
    "advantage": "adv",
    "update": "update_actor",
    "sync": "update_weights",
    "sync_pool": "update_pool",
}
"""Our names of a step's phases -> verl's timers. The old log-prob pass also gives the ``[SEG]`` states
of a policy that has them."""
IN_SHORT = {
    "rollout": ("rollout",),
    "log-probs": ("seg_states",),
    "pool": ("pool",),
    "reference": ("reference",),
    "update": ("update",),
    "sync": ("sync", "sync_pool"),
}
"""What a line has room for -> the phases that it sums."""


def seconds_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Seconds by phase of one step's metrics, and of the ``step`` without its checkpoint; what was not timed is absent.

    The pool is scored inside verl's old-log-prob timer, so its time is taken out of ``seg_states``.
    """
    timers = {**PHASES, "step": "step"}
    out = {name: v for name, timer in timers.items() if (v := scalar(metrics.get(f"timing_s/{timer}"))) is not None}
    if "seg_states" in out and "pool" in out:
        out["seg_states"] = max(0.0, out["seg_states"] - out["pool"])
    if "step" in out:
        out["step"] -= scalar(metrics.get("timing_s/save_checkpoint")) or 0.0
    return out


def step_seconds(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Median seconds of each phase over the steps, the first (which warms up) left out where there are more.

    rows: ``{"step", "data"}`` as :func:`verl_ext.run.run_files.read_metrics` gives them.
    """
    steps = [found for row in rows if "step" in (found := seconds_of(row["data"]))]
    steps = steps[1:] or steps
    out = {}
    for name in (*PHASES, "step"):
        if values := [found[name] for found in steps if name in found]:
            out[name] = round(float(np.median(values)), 3)
    return out


def in_short(metrics: Mapping[str, Any]) -> str:
    """The newest step's seconds for a line of progress; empty before the first step.

    ``12.3 s: rollout 6.0, log-probs 1.2, pool 0.9, reference 0.5, update 3.1, sync 0.6``
    """
    found = seconds_of(metrics)
    if "step" not in found:
        return ""
    sums = {word: [found[n] for n in names if n in found] for word, names in IN_SHORT.items()}
    return f"{found['step']:.1f} s: " + ", ".join(f"{word} {sum(v):.1f}" for word, v in sums.items() if v)
