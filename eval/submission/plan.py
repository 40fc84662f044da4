"""What a benchmark wants beside what the results hold: all that can be wrong is said before a byte is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data_construction.readers import Dataset
from eval.benchmarks import Benchmark
from eval.packagers.base import Answer, Packager
from eval.packagers.registry import get_packager
from eval.results.index import Key, Place, index_results, read_record
from eval.results.record import ResultRecord, check_name
from eval.scores.expression import check_fit
from rewards.metrics.packing import runs
from rollout.errors import DataError
from rollout.types import Clip, Expression, Sample

Progress = Callable[[int, int, str], None]
NAMED = 20


@dataclass(frozen=True)
class Wanted:
    """One clip of a submission."""

    clip: Clip
    expressions: list[Expression]


class Target:
    """A benchmark's expressions as its packager wants them."""

    def __init__(self, benchmark: Benchmark, root: Path, strict: bool = False) -> None:
        """``strict``: raise for annotations that cannot be read, instead of leaving out what they say.

        Raises DataError for a benchmark without submission format, and for data that are not there."""
        if benchmark.submission is None:
            raise DataError(
                f"benchmark {benchmark.name} has no server to submit to; score it here (videoseg score), or name a "
                "packager under 'submission' in a YAML file of your own"
            )
        self.benchmark = benchmark
        self.packager: Packager = get_packager(benchmark.submission)
        self.dataset: Dataset = benchmark.dataset_at(root)
        self.clips: list[str] = self.dataset.clips()
        self.strict = strict
        self.unread: dict[str, str] = {}
        """``clip/expression``, or a whole clip -> why it is left out; known once all clips were seen."""

    def __iter__(self) -> Iterator[Wanted]:
        """Clips in the data set's order. Raises DataError for names that could leave a folder."""
        for name in self.clips:
            wanted = self._clip(name)
            if wanted is None:
                continue
            check_name(name, f"{self.dataset.root}: clip", nested=True)
            for expression in wanted.expressions:
                check_name(expression.id, f"{self.dataset.root}: expression id of clip {name!r}", nested=False)
            paths = self.packager.paths(wanted.clip, wanted.expressions)
            if len(set(paths)) != len(paths):
                raise DataError(
                    f"{self.dataset.root}: clip {name} has two frames of one name; the annotations are wrong"
                )
            yield wanted

    def _clip(self, name: str) -> Wanted | None:
        """None where nothing of the clip can be used, or nothing is asked of it."""
        entry = self.dataset.index[name]
        for problem in entry.problems:
            if self.strict:
                raise problem.error()
        if entry.silent is not None:
            return None
        try:
            clip = self.dataset.clip(name)
        except DataError as error:
            if self.strict:
                raise
            self.unread[name] = str(error)
            return None
        self.unread |= {f"{name}/{eid}": str(problem) for eid, problem in entry.lost.items()}
        return Wanted(clip, self.dataset.expressions(name))


@dataclass
class Plan:
    """Results that were found to fit, and what they lack."""

    target: Target
    results: Path
    places: dict[Key, Place]
    missing: list[str] = field(default_factory=list)
    """``clip/expression`` without a prediction, or with one whose dialogue could not begin."""

    def answers(self, wanted: Wanted) -> list[Answer]:
        """Of every expression of a clip; empty masks for what is missing."""
        out = []
        with self.results.open("rb") as file:
            for expression in wanted.expressions:
                record = None
                if (place := self.places.get((wanted.clip.name, expression.id))) is not None:
                    record = read_record(file, self.results, (wanted.clip.name, expression.id), place)
                if record is None or record.failed:
                    out.append(Answer(expression, (None,) * wanted.clip.num_frames, ()))
                else:
                    out.append(Answer(expression, record.prediction, record.tracks))
        return out

    def refuse_missing(self) -> None:
        """Raise DataError that names what is missing."""
        if self.missing:
            more = f" and {len(self.missing) - NAMED} more" if len(self.missing) > NAMED else ""
            raise DataError(
                f"{self.results}: no prediction for {len(self.missing)} expressions of benchmark "
                f"{self.target.benchmark.name}: {', '.join(self.missing[:NAMED])}{more}; evaluate them (the same eval "
                "command goes on), or hand in empty masks for them with --fill-missing"
            )


def make_plan(results: Path, target: Target, progress: Progress) -> Plan:
    """Look at every record. Raises DataError for an expression that the benchmark lacks, another text, number of
    frames or size than its, a duplicate, an RLE that does not decode."""
    plan = Plan(target, results, index_results(results))
    unknown = dict(plan.places)
    for done, wanted in enumerate(target):
        progress(done, len(target.clips), f"checking {wanted.clip.name}")
        with results.open("rb") as file:
            for expression in wanted.expressions:
                key = (wanted.clip.name, expression.id)
                place = unknown.pop(key, None)
                record = None if place is None else read_record(file, results, key, place)
                if record is not None:
                    _check(record, Sample(wanted.clip, expression))
                if record is None or record.failed:
                    plan.missing.append(f"{wanted.clip.name}/{expression.id}")
    for (clip, expression_id), place in unknown.items():
        if clip in target.unread or f"{clip}/{expression_id}" in target.unread:
            continue
        raise DataError(
            f"{results}, line {place.number}: {clip}/{expression_id} is not in benchmark {target.benchmark.name} (so "
            f"are {len(unknown)} of {len(plan.places)} records); results of another benchmark or split?"
        )
    return plan


def _check(record: ResultRecord, sample: Sample) -> None:
    check_fit(record, sample)
    tracks = {"prediction": record.prediction, **{f"object {o}": track for o, track in enumerate(record.objects or ())}}
    for what, track in tracks.items():
        for t, rle in enumerate(track):
            if rle is not None:
                runs(rle, sample.clip.height, sample.clip.width, f"{record.name}, {what}, frame {t}")
