"""Ground truth of ``videoseg eval``: looked at before anything starts, scored against when a target is done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rollout.errors import DataError

if TYPE_CHECKING:
    from eval.scorers.types import Scores
    from verl_ext.evaluation.targets import Target
    from verl_ext.run.progress import Callback

Keys = Sequence[tuple[str, str]]


def check_truth(target: Target, keys: Keys, whole: bool, strict: bool) -> None:
    """Find out before inference what would keep its results from being scored, as far as that is quickly known.

    That is: files that are missing or cannot be read, and that there is anything to score. Under ``strict`` also
    everything the annotation files say wrongly, and one clip's masks.

    Args:
        keys: what is to be scored; ``whole``: that is the whole split.

    Raises:
        DataError: names the first fault, and how to see all.
    """
    from eval.scores.clip import ClipScorer, Options

    benchmark, dataset = target.benchmark, target.benchmark.dataset_at(target.root)
    if benchmark.scorer is None or dataset.masks is None:
        return
    asked = list(dict.fromkeys(clip for clip, _ in keys))
    if strict:
        entries = [dataset.index[clip] for clip in (dataset.clips() if whole else asked)]
        faults = [problem for entry in entries for problem in (*entry.problems, *entry.odd.values())]
        if faults:
            more = f" (so are {len(faults) - 1} more)" if len(faults) > 1 else ""
            raise DataError(
                f"{benchmark.name} could not be scored, so nothing was started: {faults[0]}{more}; `videoseg data "
                "check` names all that is wrong with the data"
            )
    scorer, broken = ClipScorer(benchmark, target.root, Path(), Options(strict=strict)), list[str]()
    for clip in asked:
        truth = scorer.truth(clip)
        if truth.samples:
            return
        broken += truth.broken.values()
    if broken:
        raise DataError(
            f"{benchmark.name} could not be scored, so nothing was started: no annotation of it can be used, the first "
            f"because: {broken[0]}; `videoseg data check` names all that is wrong with the data"
        )


def score_target(
    target: Target, results: Path, keys: Keys, whole: bool, progress: Callback, strict: bool = False
) -> Scores | None:
    """Scores, also on disk beside the results; None where there is no public ground truth.

    A benchmark is scored by its own scorer, whole or in a draw; any other split of a data set by J and F.
    Raises DataError for results that do not fit, and for ground truth that does not where ``strict``.
    """
    from eval.results.run_info import read_run_info
    from eval.scores.benchmark import score_benchmark
    from eval.scores.files import write_scores

    benchmark = target.benchmark
    if benchmark.scorer is None or benchmark.dataset_at(target.root).masks is None:
        return None
    scores = score_benchmark(
        results,
        benchmark,
        target.root,
        keys=None if whole else keys,
        strict=strict,
        largest=not target.official,
        run=read_run_info(results),
        progress=progress,
    )
    write_scores(scores, target.out)
    return scores
