"""Evaluate a policy: roll out, propagate, write each finished expression, score.

Each expression is on disk the moment it is finished; the same call goes on where an earlier one stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.cluster import Cluster, start_cluster, use_policy
from eval.failures import FAILED_FILE, FailuresFile
from eval.pipeline import Broken, Pipeline, Progress
from eval.results import ResultsFile, read_results
from eval.score import score_results
from eval.score_files import write_scores
from rollout.types import Sample

if TYPE_CHECKING:
    from eval.score_types import Scores
    from verl_ext.scoring import Scoring

RESULTS_FILE = "results.jsonl"
__all__ = ["RESULTS_FILE", "Cluster", "Inferred", "evaluate", "infer", "start_cluster", "use_policy"]


@dataclass(frozen=True)
class Inferred:
    """What a run left behind."""

    results: Path
    done: int
    """Expressions in the results file."""
    failed: int
    """Expressions without a result; ``failed.jsonl`` has the reasons."""


def infer(
    cluster: Cluster,
    samples: Iterable[Sample | Broken],
    out: Path,
    *,
    total: int = 0,
    progress: Progress | None = None,
    rewards: Scoring | None = None,
    environment_settings: Mapping[str, Any] | None = None,
) -> Inferred:
    """Run every sample that ``out`` does not hold yet; samples are read as they are needed.

    Args:
        out: folder of ``results.jsonl`` and ``failed.jsonl``.
        total: how many samples there are, for ``progress``.
        rewards: a recipe's scoring, whose rewards are to be recorded as well.
        environment_settings: of these dialogues, where they differ from those the workers started with.

    Raises:
        DataError: another job writes to the same results.
        WorkerError: workers do not start any more, or nothing but failures comes back.
    """
    with ResultsFile(out / RESULTS_FILE) as results, FailuresFile(out / FAILED_FILE) as failures:
        Pipeline(
            cluster.fleet,
            cluster.events,
            cluster.pool,
            cluster.scoring,
            results,
            failures,
            rewards=rewards,
            environment_settings=environment_settings,
            progress=progress,
            total=total,
        ).run(samples)
        return Inferred(results.path, len(results), failures.count)


def evaluate(
    cluster: Cluster,
    samples: Iterable[Sample],
    out: Path,
    progress: Progress | None = None,
    protocol: Mapping[str, Any] | None = None,
    seed: int | None = None,
    rewards: Scoring | None = None,
) -> Scores:
    """Run every sample that ``out`` does not hold yet, then score all of them in memory.

    Args:
        out: folder of ``results.jsonl``, ``scores.json`` and ``scores.csv``.
        rewards: a recipe's scoring, whose rewards are to be recorded as well.
    """
    wanted = list(samples)
    infer(cluster, wanted, out, total=len(wanted), progress=progress, rewards=rewards)
    scores = score_results(read_results(out / RESULTS_FILE), wanted, protocol=protocol, seed=seed)
    write_scores(scores, out)
    return scores
