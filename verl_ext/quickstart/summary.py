"""What ``summary.json`` says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rollout.errors import DataError
from verl_ext.quickstart.evaluation import other_stage
from verl_ext.quickstart.settings import Layout, QuickstartSettings
from verl_ext.run.gains import paired_gain
from verl_ext.run.phases import PHASES, step_seconds
from verl_ext.run.supervise import METRICS, read_metrics

__all__ = ["PHASES", "step_seconds", "summarise"]


def summarise(layout: Layout, scores: dict[str, Any], settings: QuickstartSettings) -> dict[str, Any]:
    """J&F of the three policies, held-out reward before and after RL, formats, baselines, time by phase.

    Raises:
        DataError: RL was evaluated at one step only.
    """
    from eval.scores.files import read_scores

    held_out = [json.loads(line) for line in (layout.grpo / "held_out.jsonl").read_text().splitlines()]
    first, last = held_out[0], held_out[-1]
    if first["step"] == last["step"]:
        raise DataError(
            f"{layout.grpo / 'held_out.jsonl'}: evaluations of step {first['step']} alone, so RL has nothing to be "
            f"compared with; remove {layout.grpo} and run the quickstart again"
        )
    rows = read_metrics(layout.grpo / METRICS)
    out: dict[str, Any] = {f"jf_{stage}": round(found.jf, 2) for stage, found in scores.items()}
    out |= {
        "world": settings.world,
        **taught_figures(scores, settings.taught_kinds),
        "jf_predict_nothing": round(scores["rl"].overall.baselines["nothing"].mean, 2),
        "reward_first": round(first["val/reward/mean"], 4),
        "reward_last": round(last["val/reward/mean"], 4),
        "reward_first_se": round(first["val/reward/std_error"], 4),
        "reward_last_se": round(last["val/reward/std_error"], 4),
        **paired_gain(first["rewards"], last["rewards"], "reward"),
        **paired_gain(jf_by_expression(scores["cold_start"]), jf_by_expression(scores["rl"]), "jf"),
        "format_cold_start": greedy_format(layout.evaluation("cold_start"), settings.method),
        "format_rl": greedy_format(layout.evaluation("rl"), settings.method),
        "format_sampled_first": share_of_format(first),
        "format_sampled_last": share_of_format(last),
        "step_seconds": step_seconds(rows),
        "rl_steps": len([r for r in rows if "timing_s/step" in r["data"]]),
    }
    for name in settings.other_layouts:
        other = read_scores(layout.evaluation(other_stage(name)) / "scores.json")
        out |= {f"jf_{name}": round(other.jf, 2), f"expressions_{name}": len(other.expressions)}
    for stage, found in scores.items():
        visible = found.overall.metrics["j_visible"].mean
        out[f"j_visible_{stage}"] = None if visible is None else round(visible, 2)
    return out


def first_policy(summary: Mapping[str, Any]) -> str:
    """What the policy before both supervised stages is called: a reading warm-up has shown it clips and traces."""
    return "warmed up" if summary.get("settings", {}).get("reading") else "untrained"


def taught_figures(scores: dict[str, Any], kinds: Sequence[str]) -> dict[str, float | None]:
    """J&F after cold start and RL on the ``kinds`` that the cold start claims to teach, and RL's gain on them.

    None stands where no such expression was evaluated.
    """
    before, after = (jf_by_expression(scores[stage], kinds) for stage in ("cold_start", "rl"))
    if not before:
        return dict.fromkeys(("jf_taught_cold_start", "jf_taught_rl", "jf_taught_gain", "jf_taught_gain_se"))
    means = {"jf_taught_cold_start": before, "jf_taught_rl": after}
    figures = {name: round(float(np.mean([*found.values()])), 2) for name, found in means.items()}
    return {**figures, **paired_gain(before, after, "jf_taught")}


def jf_by_expression(scores: Any, kinds: Sequence[str] | None = None) -> dict[str, float]:
    """J&F (0..100) of each held-out expression (of those ``kinds``)."""
    rows = (row for row in scores.expressions if kinds is None or row.kind in kinds)
    return {f"{row.clip}/{row.expression_id}": row.jf for row in rows}


def greedy_format(folder: Path, method: str = "videoseg_o3") -> float:
    """The share of an evaluation's dialogues whose every turn keeps to the protocol."""
    from eval.inference.run import RESULTS_FILE
    from eval.results.results_file import read_results
    from rewards.strict_format import keeps_protocol
    from rollout.box_protocol import parse_box_turn

    def kept(texts: list[str]) -> bool:
        return all(parse_box_turn(t).problem is None for t in texts) if method == "veason_r1" else keeps_protocol(texts)

    records = read_results(folder / RESULTS_FILE)
    return round(float(np.mean([kept([turn.text for turn in r.turns]) for r in records])), 4)


def share_of_format(held_out: Mapping[str, float]) -> float:
    """The share of well-formed dialogues, from the mean of a reward that is +1 or -1; of Veason-R1's, 0 to 2."""
    boxes = held_out.get("val/reward/veason_format")
    return round((held_out["val/reward/strict_format"] + 1 if boxes is None else boxes) / 2, 4)
