"""The quickstart's evaluation: three policies on the same held-out expressions."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rollout.errors import WorkerError
from rollout.types import Sample
from verl_ext.quickstart.settings import Layout, QuickstartSettings, stage_recipe

Progress = Callable[[int, int, str], None]


def test_samples(layout: Layout, settings: QuickstartSettings, seed: int) -> list[Sample]:
    """The evaluated expressions: a fixed draw from the test split."""
    from data_construction.readers import open_dataset

    samples = list(open_dataset("revos", layout.data, "test").samples())
    order = np.random.default_rng(seed).permutation(len(samples))[: settings.test_samples]
    return [samples[i] for i in sorted(order)]


def other_stage(name: str) -> str:
    """What the trained policy's evaluation on another data set's layout is called."""
    return f"rl_{name}"


def other_samples(layout: Layout, name: str) -> list[Sample]:
    """Every expression of the clips in that layout."""
    from data_construction.readers import open_dataset

    return list(open_dataset(name, layout.other_data(name), "test").samples())


def evaluate_stages(
    layout: Layout, settings: QuickstartSettings, seed: int, policies: dict[str, Path], progress: Progress
) -> dict[str, Any]:
    """Every policy on the same held-out expressions, the trained one on other layouts as well, one engine for all;
    returns scores by policy.

    Raises:
        WorkerError: expressions without a prediction, which would lower J&F unseen; the next call tries them again.
    """
    from eval.inference.run import evaluate, start_cluster, use_policy
    from eval.scores.files import read_scores
    from verl_ext.evaluation.settings import inference_settings

    recipe = stage_recipe(layout, "grpo.yaml", settings, seed)
    asked = dict.fromkeys(policies, test_samples(layout, settings, seed))
    asked |= {other_stage(name): other_samples(layout, name) for name in settings.other_layouts}
    wanted = {stage: policies[stage if stage in policies else "rl"] for stage in asked}
    todo = [s for s in wanted if not all_predicted(layout.evaluation(s))]
    if todo:
        cluster = start_cluster(wanted[todo[0]], inference_settings(recipe), recipe.device)
        try:
            for stage in todo:
                use_policy(cluster, wanted[stage])
                words = stage.replace("_", " ")
                evaluate(
                    cluster,
                    asked[stage],
                    layout.evaluation(stage),
                    progress=lambda done, total, what, w=words: progress(done, total, f"{w}: {what}"),  # type: ignore[misc]
                    protocol={"policy": str(wanted[stage]), "split": "test", "samples": len(asked[stage])},
                    seed=seed,
                )
        finally:
            cluster.close()
    scores = {stage: read_scores(layout.evaluation(stage) / "scores.json") for stage in wanted}
    for stage, found in scores.items():
        if lost := [*found.missing, *found.failed]:
            raise WorkerError(
                f"{stage}: {len(lost)} of {len(asked[stage])} held-out expressions have no prediction, the first "
                f"{lost[0]}; {layout.evaluation(stage)}/failed.jsonl says why, and the same command tries them again"
            )
    return {stage: scores[stage] for stage in policies}


def forget_evaluation(layout: Layout, stage: str) -> None:
    """What was evaluated before is that of a policy that is about to be trained anew."""
    shutil.rmtree(layout.evaluation(stage), ignore_errors=True)


def all_predicted(folder: Path) -> bool:
    """Whether an evaluation is there and has a prediction of every expression."""
    from eval.scores.files import read_scores

    if not (folder / "scores.json").exists():
        return False
    scores = read_scores(folder / "scores.json")
    return not (scores.missing or scores.failed)
