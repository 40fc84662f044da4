"""The work of one process: read one clip's ground truth and predictions, score them, forget them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from data_construction.readers import Dataset
from eval.benchmarks import Benchmark
from eval.results.index import Place, read_record
from eval.results.record import ResultRecord
from eval.scorers import Scorer, get_scorer
from eval.scorers.base import Track
from eval.scorers.baselines import LargestObjects
from eval.scorers.types import ExpressionScore
from eval.scores.expression import check_fit, row_of, score_expression, zero_values
from eval.scores.truth import Truth, read_truth
from rewards.metrics.packing import runs
from rollout.errors import DataError
from rollout.types import Expression, Masklets


@dataclass(frozen=True)
class Options:
    """How a benchmark is scored."""

    exact: bool = False
    """Keep every digit where the official tool rounds."""
    released: bool = False
    """As the released tool does it where ours differs on purpose."""
    strict: bool = False
    """An annotation that is odd or broken stops everything."""
    largest: bool = False
    """Score the baseline of each clip's largest object too."""


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


@dataclass(frozen=True)
class Scored:
    """One clip's rows, and what its annotations are like."""

    rows: list[ExpressionScore]
    odd: dict[str, str]
    """``clip/expression`` or the clip -> what is odd, and was counted by the benchmark's own rule."""
    broken: dict[str, str]
    """``clip/expression`` or the clip -> why it cannot be scored."""


class ClipScorer:
    """Scores jobs of one benchmark and one results file; data set and file are opened on first use."""

    def __init__(self, benchmark: Benchmark, root: Path, results: Path, options: Options | None = None) -> None:
        self.benchmark, self.root, self.results, self.options = benchmark, root, results, options or Options()

    def __reduce__(self) -> tuple[type[ClipScorer], tuple[Benchmark, Path, Path, Options]]:
        """Travels without the opened data set."""
        return ClipScorer, (self.benchmark, self.root, self.results, self.options)

    @cached_property
    def scorer(self) -> Scorer:
        if self.benchmark.scorer is None:
            raise DataError(f"benchmark {self.benchmark.name} has no scorer: its ground truth is not public")
        scorer = get_scorer(self.benchmark.scorer)
        scorer.released = self.options.released
        return scorer

    @cached_property
    def dataset(self) -> Dataset:
        return self.benchmark.dataset_at(self.root)

    def truth(self, clip: str) -> Truth:
        """All that is to be scored of a clip; see ``read_truth`` for what raises."""
        needed = self.scorer.needs_foreground
        return read_truth(self.benchmark, self.dataset, clip, strict=self.options.strict, foreground=needed)

    def __call__(self, job: ClipJob) -> Scored:
        """One row an expression, in order. Raises DataError naming clip, expression and frame or line."""
        truth = job.truth or self.truth(job.clip)
        self._refuse_unknown(job, truth)
        rows = []
        with self.results.open("rb") as file:
            together = self._together(job, truth, file)
            area = _area(truth.foreground, job.clip)
            largest = LargestObjects(s for s, _ in truth.samples.values()) if self.options.largest else None
            for expression in truth.expressions:
                eid = expression.id
                if job.only is not None and eid not in job.only:
                    continue
                record = self._record(job, truth, eid, file)
                if eid not in truth.samples:
                    rows.append(self._broken(job.clip, expression, truth, missing=record is None))
                    continue
                sample, scored = truth.samples[eid]
                row = score_expression(
                    sample,
                    record,
                    self.scorer,
                    foreground_area=area,
                    scored=scored,
                    annotated=truth.annotated,
                    together=together.get(eid),
                    largest=None if largest is None else largest.prediction(sample),
                    exact=self.options.exact,
                )
                rows.append(row)
        return Scored(rows, *(_named(job, found) for found in (truth.odd, truth.broken)))

    def _record(self, job: ClipJob, truth: Truth, eid: str, file: BinaryIO) -> ResultRecord | None:
        """The prediction; None where there is none. Raises DataError for one that does not fit its expression."""
        if (place := job.places.get(eid)) is None:
            return None
        record = read_record(file, self.results, (job.clip, eid), place)
        if eid in truth.samples:
            check_fit(record, truth.samples[eid][0])
        return record

    def _broken(self, clip: str, expression: Expression, truth: Truth, missing: bool) -> ExpressionScore:
        values = zero_values(expression, self.scorer)
        more: dict[str, Any] = {"frames": truth.frames, "visible_frames": 0, "missing": missing, "baselines": {}}
        return row_of(clip, expression, self.scorer, values, broken=True, **more)

    def _together(self, job: ClipJob, truth: Truth, file: BinaryIO) -> dict[str, dict[str, float | None]]:
        if not self.scorer.takes_whole_clips or truth.broken or not truth.samples:
            return {}
        answers: dict[str, Track] = {}
        for eid in truth.samples:
            record = self._record(job, truth, eid, file)
            if record is not None and not record.failed:
                answers[eid] = record.prediction
        samples = [sample for sample, _ in truth.samples.values()]
        return self.scorer.together(samples, answers, partial(self.dataset.label_image, job.clip))

    def _refuse_unknown(self, job: ClipJob, truth: Truth) -> None:
        known = {e.id for e in truth.expressions}
        for expression_id, place in job.places.items():
            if expression_id not in known and job.clip not in truth.broken:
                raise DataError(
                    f"{self.results}, line {place.number}: {job.clip}/{expression_id} is no expression of benchmark "
                    f"{self.benchmark.name}; results of another benchmark or split?"
                )


def _named(job: ClipJob, found: dict[str, str]) -> dict[str, str]:
    """By full names, of what is asked for; a whole clip stands under its own name."""
    asked = {eid: why for eid, why in found.items() if job.only is None or eid in job.only or eid == job.clip}
    return {eid if eid == job.clip else f"{job.clip}/{eid}": why for eid, why in asked.items()}


def _area(foreground: Masklets | None, clip: str) -> NDArray[np.int64] | None:
    """(T,) pixels. Raises DataError for an RLE that misfits."""
    if foreground is None:
        return None
    area = np.zeros(foreground.num_frames, np.int64)
    for t, rle in enumerate(foreground.rles[0]):
        if rle is not None:
            area[t] = runs(rle, foreground.height, foreground.width, f"{clip}, foreground, frame {t}")[1::2].sum()
    return area
