"""What ``summary.json`` says."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from verl_ext.quickstart.settings import Layout, QuickstartSettings
from verl_ext.supervise import METRICS, read_metrics, scalar

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
"""Our names of a step's phases -> verl's timers. The old log-prob pass gives the ``[SEG]`` states."""


def step_seconds(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Median seconds of each phase over the steps, the first (which warms up) left out where there are more."""
    steps = [r["data"] for r in rows if scalar(r["data"].get("timing_s/step")) is not None]
    steps = steps[1:] or steps
    out = {}
    for name, timer in {**PHASES, "step": "step"}.items():
        values = [v for r in steps if (v := scalar(r.get(f"timing_s/{timer}"))) is not None]
        if name == "step":  # a checkpoint belongs to no step
            saving = [scalar(r.get("timing_s/save_checkpoint")) or 0.0 for r in steps]
            values = [v - s for v, s in zip(values, saving, strict=True)]
        if values:
            out[name] = round(float(np.median(values)), 3)
    if "seg_states" in out and "pool" in out:  # the pool is scored inside verl's old-log-prob timer
        out["seg_states"] = round(max(0.0, out["seg_states"] - out["pool"]), 3)
    return out


def summarise(layout: Layout, scores: dict[str, Any], settings: QuickstartSettings) -> dict[str, Any]:
    """J&F of the three policies, held-out reward before and after RL, formats, baselines, time by phase."""
    held_out = [json.loads(line) for line in (layout.grpo / "held_out.jsonl").read_text().splitlines()]
    first, last = held_out[0], held_out[-1]
    rows = read_metrics(layout.grpo / METRICS)
    taught = [s.jf for k in settings.taught_kinds for s in scores["cold_start"].expressions if s.kind == k]
    out: dict[str, Any] = {f"jf_{stage}": round(found.jf, 2) for stage, found in scores.items()}
    out |= {
        "jf_taught_cold_start": round(float(np.mean(taught)), 2) if taught else None,
        "jf_predict_nothing": round(scores["rl"].overall.baselines["nothing"].mean, 2),
        "reward_first": round(first["val/reward/mean"], 4),
        "reward_last": round(last["val/reward/mean"], 4),
        "reward_first_se": round(first["val/reward/std_error"], 4),
        "reward_last_se": round(last["val/reward/std_error"], 4),
        **paired_gain(first["rewards"], last["rewards"], "reward"),
        **paired_gain(jf_by_expression(scores["cold_start"]), jf_by_expression(scores["rl"]), "jf"),
        "format_cold_start": share_of_format(first["val/greedy_reward/strict_format"]),
        "format_rl": share_of_format(last["val/greedy_reward/strict_format"]),
        "format_sampled_first": share_of_format(first["val/reward/strict_format"]),
        "format_sampled_last": share_of_format(last["val/reward/strict_format"]),
        "step_seconds": step_seconds(rows),
        "rl_steps": len([r for r in rows if "timing_s/step" in r["data"]]),
    }
    for stage, found in scores.items():
        visible = found.overall.metrics["j_visible"].mean
        out[f"j_visible_{stage}"] = None if visible is None else round(visible, 2)
    return out


def jf_by_expression(scores: Any) -> dict[str, float]:
    """J&F (0..100) of each held-out expression."""
    return {f"{row.clip}/{row.expression_id}": row.jf for row in scores.expressions}


def paired_gain(before: dict[str, float], after: dict[str, float], name: str) -> dict[str, float]:
    """Mean of ``name`` gained over the same held-out prompts, and the standard error of that mean."""
    gains = np.array([after[key] - before[key] for key in before if key in after])
    error = float(gains.std(ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else float("nan")
    return {f"{name}_gain": round(float(gains.mean()), 4), f"{name}_gain_se": round(error, 4)}


def share_of_format(mean_reward: float) -> float:
    """The share of well-formed dialogues, from the mean of a reward that is +1 or -1."""
    return round((mean_reward + 1) / 2, 4)
