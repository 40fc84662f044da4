"""Results and ground truth, both in memory, to scores. Needs neither torch nor a GPU.

For a whole benchmark from its files, one clip in memory at a time, see ``eval.scores.benchmark``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from eval.results.record import ResultRecord
from eval.results.run_info import RunInfo
from eval.scorers.base import Scorer
from eval.scorers.baselines import LargestObjects
from eval.scorers.types import Scores
from eval.scores.expression import check_fit, score_expression
from eval.scores.info import Progress, summarise
from rollout.errors import DataError
from rollout.types import Sample

Key = tuple[str, str]


def score_results(
    records: Iterable[ResultRecord],
    samples: Iterable[Sample],
    *,
    protocol: Mapping[str, Any] | None = None,
    seed: int | None = None,
    run: RunInfo | None = None,
    progress: Progress | None = None,
) -> Scores:
    """J and F of every sample, with all baselines; what the results lack counts 0 in every score and is listed.

    Args:
        records: what the model predicted, in any order.
        samples: the expressions with their ground truth.
        protocol: how the results came about (frames, turns, model); copied into the scores.
        seed: of the run, likewise.
        run: both, with versions and the reasons why results are missing, where they lie beside the results.
        progress: called with (done, total, what).

    Raises:
        DataError: a clip or expression that the samples lack, one predicted twice, another text, frame count or size
            than the sample's, an RLE that does not decode, a sample without ground truth.
    """
    by_key = _index_samples(samples)
    predicted = _index_records(records, by_key)
    scorer, largest = Scorer(), LargestObjects(by_key.values())
    rows = []
    for done, (key, sample) in enumerate(by_key.items()):
        if progress:
            progress(done, len(by_key), f"scoring {sample.id}")
        rows.append(score_expression(sample, predicted.get(key), scorer, largest=largest.prediction(sample)))
    if progress:
        progress(len(by_key), len(by_key), "scored")
    return summarise(rows, scorer, run=run or RunInfo(dict(protocol or {}), seed))


def _index_samples(samples: Iterable[Sample]) -> dict[Key, Sample]:
    out: dict[Key, Sample] = {}
    for sample in samples:
        key = (sample.clip.name, sample.expression.id)
        if key in out:
            raise DataError(f"{sample.id}: twice in the benchmark")
        out[key] = sample
    if not out:
        raise DataError("no samples to score: the benchmark or its filter is empty")
    return out


def _index_records(records: Iterable[ResultRecord], samples: Mapping[Key, Sample]) -> dict[Key, ResultRecord]:
    out: dict[Key, ResultRecord] = {}
    for record in records:
        sample = samples.get(record.key)
        if sample is None:
            raise DataError(
                f"{record.name}: predicted, but not in the benchmark; results of another one, or another split?"
            )
        if record.key in out:
            raise DataError(f"{record.name}: predicted twice")
        record.check("results")
        check_fit(record, sample)
        out[record.key] = record
    return out
