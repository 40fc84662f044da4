"""Evaluate a policy: roll out, propagate, write each finished expression, score.

Each expression is on disk the moment it is finished; the same call goes on where an earlier one stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.inference.cluster import Cluster, start_cluster, use_policy
from eval.inference.pipeline import Broken, Pipeline, Progress
from eval.results.failures import FAILED_FILE, Failure, FailuresFile
from eval.results.results_file import RESULTS_FILE, ResultsFile, read_results
from eval.scores.files import write_scores
from eval.scores.in_memory import score_results
from rollout.types import Sample

if TYPE_CHECKING:
    from eval.scorers.types import Scores
    from rewards.scoring import Scoring

__all__ = [
    "FAILED_FILE",
    "RESULTS_FILE",
    "Cluster",
    "Inferred",
    "evaluate",
    "infer",
    "keep",
    "start_cluster",
    "use_policy",
]


@dataclass(frozen=True)
class Inferred:
    """What a run left behind."""

    results: Path
    done: int
    """Expressions in the results file."""
    failed: int
    """Expressions without a result; ``failed.jsonl`` has the reasons."""
    restarts: int = 0
    """Workers that died meanwhile and were replaced."""
    dropped_bytes: int = 0
    """Of a torn last line, which a killed run had left in the results."""


def infer(
    cluster: Cluster,
    samples: Iterable[Sample | Broken],
    out: Path,
    *,
    total: int = 0,
    progress: Progress | None = None,
    rewards: Scoring | None = None,
    environment_settings: Mapping[str, Any] | None = None,
    scoring: Scoring | None = None,
    on_open: Callable[[], None] | None = None,
) -> Inferred:
    """Run every sample that ``out`` does not hold yet; samples are read as they are needed.

    Args:
        out: folder of ``results.jsonl`` and ``failed.jsonl``.
        total: how many samples there are, for ``progress``.
        rewards: a recipe's scoring, whose rewards are to be recorded as well.
        environment_settings: of these dialogues, where they differ from those the workers started with.
        scoring: says which masks to ask for; by default the cluster's, which knows the settings it started with.
        on_open: called once the results are locked and before anything is added to them.

    Raises:
        DataError: another job writes to the same results.
        WorkerError: workers do not start any more, or nothing but failures comes back.
    """
    with ResultsFile(out / RESULTS_FILE) as results:
        if on_open is not None:
            on_open()
        before = cluster.restarts
        failures = FailuresFile(out / FAILED_FILE, results.done)
        pipeline = Pipeline(
            cluster.fleet,
            cluster.events,
            cluster.pool,
            scoring or cluster.scoring,
            results,
            failures,
            rewards=rewards,
            environment_settings=environment_settings,
            progress=progress,
            total=total,
        )
        with failures:
            pipeline.run(samples)
        return Inferred(results.path, len(results), failures.count, cluster.restarts - before, results.dropped_bytes)


def keep(out: Path, broken: Iterable[Broken] = (), on_open: Callable[[], None] | None = None) -> Inferred:
    """What :func:`infer` comes to where all but ``broken`` is there already; needs no cluster. Raises likewise."""
    with ResultsFile(out / RESULTS_FILE) as results:
        if on_open is not None:
            on_open()
        with FailuresFile(out / FAILED_FILE, results.done) as failures:
            for one in broken:
                failures.append(one.clip, one.expression_id, Failure(str(one.error), "data"))
        return Inferred(results.path, len(results), failures.count, dropped_bytes=results.dropped_bytes)


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
