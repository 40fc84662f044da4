"""From the options of ``videoseg eval`` to a running evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewards.model_files import check_folder, check_sam2
from rollout.errors import DataError, VideosegError
from rollout.spoilt import check_way
from verl_ext.evaluation.request import Request
from verl_ext.evaluation.run_file import check_run, run_of, write_run
from verl_ext.evaluation.scores import check_truth, score_target
from verl_ext.evaluation.settings import inference_settings, one_engine, recipe_of, refuse_ignored, refuse_unfit
from verl_ext.evaluation.targets import Target, broken_of, frames_by_clip, keys_of, stream

if TYPE_CHECKING:
    from data_construction.readers import Dataset
    from eval.inference.dialogue import InferenceSettings
    from eval.inference.pipeline import Broken
    from eval.inference.run import Cluster, Inferred
    from eval.scorers.types import Scores
    from verl_ext.recipe import Recipe
    from verl_ext.run.progress import Callback

__all__ = ["Finished", "Request", "inference_settings", "recipe_of", "run"]


@dataclass(frozen=True)
class Finished:
    """One target's results."""

    target: Target
    inferred: Inferred
    scores: Scores | None
    """None where there is no public ground truth."""
    unscored: VideosegError | None = None
    """Why there are no scores although there should be; the results are on disk all the same."""
    unreadable: tuple[str, ...] = ()
    """Where there are no scores: how many replies could not be read, and why."""
    notes: tuple[str, ...] = ()
    """What there is to know about how the policy was asked."""


@dataclass(frozen=True)
class _Task:
    """One target, ready to be run."""

    target: Target
    recipe: Recipe
    settings: InferenceSettings
    dataset: Dataset
    keys: list[tuple[str, str]]
    broken: list[Broken]
    run: dict[str, Any]
    """For ``run.json``."""


def run(request: Request, progress: Callback) -> Iterator[Finished]:
    """Evaluate one target after another on the same engines, which are started only if anything is left to do.

    All targets are looked at before anything starts; one that cannot be scored in the end does not stop the others.

    Raises:
        DataError: no policy in the folder, data that are not what they promise, results of other settings.
        RecipeError: settings that do not fit, or that evaluation does not honour.
        WorkerError: workers that do not start (any more).
    """
    from eval.inference.run import infer, keep, start_cluster
    from verl_ext.scoring.rollouts import scoring_of

    check_policy(request.policy)
    tasks = [_task(request, target) for target in request.targets]
    engine = one_engine(request.targets, [task.settings for task in tasks])
    if engine.sam2_checkpoint is not None:
        check_sam2(Path(engine.sam2_checkpoint), engine.sam2_preset)
    cluster: Cluster | None = None
    try:
        for task in tasks:
            target, name = task.target, task.target.benchmark.name
            locked = partial(write_run, target.out, task.run)
            if set(task.keys) - done_keys(target.out):
                cluster = cluster or start_cluster(request.policy, engine, task.recipe.device, request.gpus)
                inferred = infer(
                    cluster,
                    chain(task.broken, stream(target, task.dataset, task.keys, request.images)),
                    target.out,
                    total=len(task.broken) + len(task.keys),
                    progress=_named(progress, name, len(tasks)),
                    environment_settings=task.settings.environment_settings,
                    scoring=scoring_of(task.settings.environment, task.settings.environment_settings, {}),
                    on_open=locked,
                )
            else:
                inferred = keep(target.out, task.broken, on_open=locked)
            yield _finished(request, task, inferred, progress)
    finally:
        if cluster is not None:
            cluster.close()


def check_policy(folder: Path) -> None:
    """Raises DataError for what is no policy folder."""
    check_folder(folder)
    if not (folder / "config.json").is_file():
        raise DataError(f"{folder}: no policy there (no config.json); give a folder in Hugging Face layout")


def done_keys(out: Path) -> set[tuple[str, str]]:
    """What the results in a folder hold already; nothing if there are none."""
    from eval.results.index import index_results
    from eval.results.results_file import RESULTS_FILE

    results = out / RESULTS_FILE
    return set(index_results(results)) if results.is_file() else set()


def _task(request: Request, target: Target) -> _Task:
    """Everything about a target that can be wrong is found out here, before the engines start."""
    recipe = recipe_of(request, target)
    refuse_ignored(request, recipe)
    refuse_unfit(recipe)
    dataset = target.open()
    if request.images is not None:
        check_way(request.images, frames_by_clip(dataset))
    keys = keys_of(target, dataset, request.max_samples, recipe.seed)
    facts = run_of(request, target, recipe)
    check_run(target.out, facts)
    if set(keys) - done_keys(target.out):
        check_truth(target, keys, request.max_samples is None, request.strict)
    broken = broken_of(dataset, keys, request.max_samples is None)
    return _Task(target, recipe, inference_settings(recipe), dataset, keys, broken, facts)


def _finished(request: Request, task: _Task, inferred: Inferred, progress: Callback) -> Finished:
    from verl_ext.recipe.asking import box_notes

    notes = tuple(box_notes(task.recipe))
    try:
        whole = request.max_samples is None
        scores = score_target(task.target, inferred.results, task.keys, whole, progress, request.strict)
    except VideosegError as error:
        return Finished(task.target, inferred, None, error, _unreadable(task, inferred), notes)
    return Finished(task.target, inferred, scores, None, () if scores else _unreadable(task, inferred), notes)


def _unreadable(task: _Task, inferred: Inferred) -> tuple[str, ...]:
    from eval.results.results_file import iterate_results
    from eval.results.unreadable import unreadable_counts, unreadable_lines, why_unreadable

    reasons = [why_unreadable(record) for record in iterate_results(inferred.results) if not record.failed]
    return tuple(unreadable_lines(unreadable_counts(reasons), len(reasons), task.recipe.policy.prompt_set))


def _named(progress: Callback, name: str, count: int) -> Callable[[int, int, str], None]:
    return lambda done, total, what: progress(done, total, what if count == 1 else f"{name}: {what}")
