"""The work of one process: read one clip's ground truth and predictions, score them, forget them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_construction.readers import Dataset
from eval.benchmarks import Benchmark
from eval.results.index import Place, read_record
from eval.scorers import Scorer, get_scorer
from eval.scorers.types import ExpressionScore
from eval.scores.expression import check_fit, score_expression
from rewards.metrics.packing import runs
from rollout.errors import DataError
from rollout.types import Masklets, Sample


@dataclass(frozen=True)
class Truth:
    """What is to be scored of one clip, read from the data set."""

    samples: tuple[Sample, ...]
    foreground: Masklets | None


@dataclass(frozen=True)
class ClipJob:
    """One clip: which expressions, where their predictions lie, and perhaps the truth itself."""

    clip: str
    places: dict[str, Place]
    """Expression id -> its line in the results."""
    truth: Truth | None = None
    """None: the process reads it from the data set, whose masks lie in one file a clip or a frame."""
    only: frozenset[str] | None = None
    """Expressions to be scored; None: all of the clip."""


class ClipScorer:
    """Scores jobs of one benchmark and one results file; data set and file are opened on first use."""

    def __init__(self, benchmark: Benchmark, root: Path, results: Path, exact: bool) -> None:
        self.benchmark, self.root, self.results, self.exact = benchmark, root, results, exact

    def __reduce__(self) -> tuple[type[ClipScorer], tuple[Benchmark, Path, Path, bool]]:
        """Travels without the opened data set."""
        return ClipScorer, (self.benchmark, self.root, self.results, self.exact)

    @cached_property
    def scorer(self) -> Scorer:
        if self.benchmark.scorer is None:
            raise DataError(f"benchmark {self.benchmark.name} has no scorer: its ground truth is not public")
        return get_scorer(self.benchmark.scorer)

    @cached_property
    def dataset(self) -> Dataset:
        return self.benchmark.dataset_at(self.root)

    def truth(self, clip: str) -> Truth:
        """Samples and foreground of a clip. Raises DataError for what does not fit together there."""
        samples = tuple(self.benchmark.clip_samples(self.dataset, clip))
        needed = self.scorer.needs_foreground and bool(samples)
        return Truth(samples, self.benchmark.foreground(self.dataset, clip) if needed else None)

    def __call__(self, job: ClipJob) -> list[ExpressionScore]:
        """One row an expression, in order. Raises DataError naming clip, expression and frame or line."""
        truth = job.truth or self.truth(job.clip)
        self._refuse_unknown(job, truth)
        area = _area(truth.foreground, job.clip)
        rows = []
        with self.results.open("rb") as file:
            for sample in truth.samples:
                if job.only is not None and sample.expression.id not in job.only:
                    continue
                record = None
                if (place := job.places.get(sample.expression.id)) is not None:
                    record = read_record(file, self.results, (job.clip, sample.expression.id), place)
                    check_fit(record, sample)
                rows.append(score_expression(sample, record, self.scorer, foreground_area=area, exact=self.exact))
        return rows

    def _refuse_unknown(self, job: ClipJob, truth: Truth) -> None:
        known = {sample.expression.id for sample in truth.samples}
        for expression_id, place in job.places.items():
            if expression_id not in known:
                raise DataError(
                    f"{self.results}, line {place.number}: {job.clip}/{expression_id} is no expression of benchmark "
                    f"{self.benchmark.name}; results of another benchmark or split?"
                )


def _area(foreground: Masklets | None, clip: str) -> NDArray[np.int64] | None:
    """(T,) pixels. Raises DataError for an RLE that misfits."""
    if foreground is None:
        return None
    area = np.zeros(foreground.num_frames, np.int64)
    for t, rle in enumerate(foreground.rles[0]):
        if rle is not None:
            area[t] = runs(rle, foreground.height, foreground.width, f"{clip}, foreground, frame {t}")[1::2].sum()
    return area
