"""Ground truth of ``videoseg eval``: looked at before anything starts, scored against when a target is done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rollout.errors import DataError

if TYPE_CHECKING:
    from data_construction.readers import Dataset
    from eval.scorers.types import Scores
    from verl_ext.evaluation.targets import Target
    from verl_ext.run.progress import Callback

Keys = Sequence[tuple[str, str]]


def check_truth(target: Target, keys: Keys, whole: bool) -> None:
    """Find out before inference what would keep its results from being scored, as far as that is quickly known.

    That is: everything the annotation files say wrongly, files that are missing, and one clip's masks.

    Args:
        keys: what is to be scored; ``whole``: that is the whole split.

    Raises:
        DataError: names the first fault, and how to see all.
    """
    from eval.scores.clip import ClipScorer

    benchmark, dataset = target.benchmark, target.benchmark.dataset_at(target.root)
    if benchmark.scorer is None or dataset.masks is None:
        return
    clips = dataset.clips() if whole else list(dict.fromkeys(clip for clip, _ in keys))
    faults = [problem for clip in clips for problem in dataset.index[clip].problems]
    if faults:
        more = f" (so are {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise DataError(
            f"{benchmark.name} could not be scored, so nothing was started: {faults[0]}{more}; `videoseg data check` "
            "names all that is wrong with the data"
        )
    if target.official:
        ClipScorer(benchmark, target.root, Path(), False).truth(keys[0][0])
    else:
        benchmark.sample(dataset, *keys[0])


def score_target(target: Target, results: Path, keys: Keys, whole: bool, progress: Callback) -> Scores | None:
    """Scores, also on disk beside the results; None where there is no public ground truth.

    A benchmark is scored by its own scorer, whole or in a draw; any other split of a data set by J and F.
    Raises DataError for ground truth or results that do not fit.
    """
    from eval.results.run_info import read_run_info
    from eval.scores.benchmark import score_benchmark
    from eval.scores.files import write_scores

    benchmark, run = target.benchmark, read_run_info(results)
    dataset = benchmark.dataset_at(target.root)
    if benchmark.scorer is None or dataset.masks is None:
        return None
    if target.official:
        drawn = None if whole else keys
        scores = score_benchmark(results, benchmark, target.root, keys=drawn, run=run, progress=progress)
    else:
        scores = _score_split(target, dataset, results, keys, progress)
    write_scores(scores, target.out)
    return scores


def _score_split(target: Target, dataset: Dataset, results: Path, keys: Keys, progress: Callback) -> Scores:
    from eval.results.results_file import iterate_results
    from eval.results.run_info import read_run_info
    from eval.scores.in_memory import score_results

    wanted = set(keys)
    records = (record for record in iterate_results(results) if record.key in wanted)
    samples = [target.benchmark.sample(dataset, *key) for key in keys]
    return score_results(records, samples, run=read_run_info(results), progress=progress)
