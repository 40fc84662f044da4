"""``videoseg report`` of a training run: a quickstart's folder, or any other run's, to one HTML page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verl_ext.quickstart.settings import Layout
from verl_ext.quickstart.summary import first_policy
from verl_ext.run.gains import gain_in_words
from verl_ext.run.not_finite import run_in_words
from verl_ext.run.run_files import METRICS, read_metrics
from verl_ext.run.training_report import step_row, write_training_report

if TYPE_CHECKING:
    from eval.report.inputs import ReportStage
    from rollout.types import Sample

OF_WORLD = {
    "shapes": "These clips leave reinforcement little to find. By how much it raises J&F where the choice of the "
    "keyframe decides the mask is measured in docs/learning.md (videoseg quickstart --world badges).",
    "badges": "The right mask needs a keyframe in which the named mark can be read: with it an answer scores 100, a "
    "random keyframe 32, a random disc 24 (docs/learning.md).",
}
TITLES = {"cold_start": "After the cold start", "rl": "After reinforcement"}


def write_report(run_dir: Path, out: Path) -> Path:
    """Read the run's files and write the page: a finished quickstart's, else that of its metrics.

    Raises:
        DataError: the folder is neither a finished quickstart's nor a training run's; names what is missing.
    """
    from eval.report import ReportInput, build_report

    layout = Layout(Path(run_dir).resolve())
    if not layout.summary.exists():
        return write_training_report(layout.out, out)
    summary = json.loads(layout.summary.read_text())
    samples = _samples(layout)
    titles = {"untrained": first_policy(summary).capitalize(), **TITLES}
    there = {name: title for name, title in titles.items() if layout.evaluation(name).exists()}
    stages = [_stage(layout, name, title, samples) for name, title in there.items()]
    rows = read_metrics(layout.grpo / METRICS)
    metrics = [step_row(row) for row in rows]
    page = ReportInput(
        title="videoseg-rl quickstart",
        summary=summary,
        stages=stages,
        rl_metrics=[m for m in metrics if "reward/mean" in m],
        learnt_at=70.0,
        notes=notes(summary),
        warnings=warnings(layout),
    )
    return build_report(page, out)


def _samples(layout: Layout) -> dict[tuple[str, str], Sample]:
    from data_construction.readers import open_dataset

    return {(s.clip.name, s.expression.id): s for s in open_dataset("revos", layout.data, "test").samples()}


def _stage(layout: Layout, name: str, title: str, samples: dict[tuple[str, str], Sample]) -> ReportStage:
    from eval.inference.run import RESULTS_FILE
    from eval.report import ReportStage
    from eval.results.results_file import read_results
    from eval.scores.files import read_scores

    folder = layout.evaluation(name)
    records = read_results(folder / RESULTS_FILE)
    known = [samples[r.key] for r in records if r.key in samples]
    return ReportStage(name, title, read_scores(folder / "scores.json"), records, known)


def warnings(layout: Layout) -> list[str]:
    """What the trained stages' metrics have that is no number."""
    trained = (layout.segmentation, layout.cold_start, layout.grpo)
    found = {folder.name: run_in_words(read_metrics(folder / METRICS)) for folder in trained}
    return [f"{name}: {words}" for name, words in found.items() if words]


def _other_layouts(summary: dict[str, Any]) -> list[str]:
    names = [name.removeprefix("expressions_") for name in summary if name.startswith("expressions_")]
    return [
        f"The trained policy was also evaluated on clips in {name}'s layout: J&F {summary[f'jf_{name}']:.1f} over "
        f"{summary[f'expressions_{name}']} expressions, of kinds that it was not taught."
        for name in names
    ]


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def notes(summary: dict[str, Any]) -> list[str]:
    """What the quickstart's page says in words; a gain within two standard errors is said to be none."""
    first, last = summary["reward_first"], summary["reward_last"]
    error = summary["reward_gain_se"]
    if error is not None and summary["reward_gain"] > 2 * error:
        verdict = "more than two standard errors"
    else:
        verdict = "not more than two standard errors, so nothing is claimed"
    on_taught = ""
    if summary.get("jf_taught_gain") is not None:
        on_taught = f", {gain_in_words(summary, 'jf_taught')} on the kinds it was taught"
    return [
        f"Reinforcement moved the mean reward of sampled held-out dialogues from {first:.2f} to {last:.2f}, "
        f"a gain of {gain_in_words(summary, 'reward', 2)} over the same prompts: {verdict}. J&F of the greedy answers "
        f"changed by {gain_in_words(summary, 'jf')} over the same expressions{on_taught}. "
        "Dialogues that keep to the protocol throughout: "
        f"{percent(summary['format_cold_start'])} -> {percent(summary['format_rl'])} greedy, "
        f"{percent(summary['format_sampled_first'])} -> {percent(summary['format_sampled_last'])} sampled.",
        *(text for world, text in OF_WORLD.items() if summary.get("world") == world),
        *_other_layouts(summary),
        "Clips, policy and SAM 2 are tiny and made on the spot; what they show is that the pipeline learns, not how "
        "well a real policy segments.",
    ]
