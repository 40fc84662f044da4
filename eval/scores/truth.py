"""One clip's ground truth for scoring: what is sound, what is odd but has a rule, and what cannot be used.

The benchmarks' own tools go on where an annotation is odd. What they take is taken as they take it; what none of them
takes costs its expression (0, by name), and not the whole table.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from data_construction.problems import BadDataError
from data_construction.readers import Dataset
from data_construction.readers.annotations import ClipEntry
from eval.benchmarks import Benchmark
from rollout.errors import DataError
from rollout.types import Expression, Masklets, Sample


@dataclass(frozen=True)
class Truth:
    """What is to be scored of one clip, read from the data set."""

    expressions: tuple[Expression, ...]
    """All that count, also those that cannot be read; of these perhaps only the id is known."""
    samples: dict[str, tuple[Sample, tuple[int, ...] | None]] = field(default_factory=dict)
    """Expression id -> its sample, and the frames that count (None: all)."""
    frames: int = 0
    """Of the clip."""
    foreground: Masklets | None = None
    annotated: tuple[int, ...] | None = None
    """Frames whose masks people drew; None: all."""
    odd: dict[str, str] = field(default_factory=dict)
    """Expression id, or the clip -> what is odd about it, and counted by the benchmark's rule."""
    broken: dict[str, str] = field(default_factory=dict)
    """Expression id, or the clip -> why it cannot be used."""


def read_truth(benchmark: Benchmark, dataset: Dataset, clip: str, *, strict: bool, foreground: bool) -> Truth:
    """Ground truth of a clip.

    Args:
        strict: raise for the first thing that is odd or broken.
        foreground: whether foreground masks are needed.

    Raises:
        DataError: names file, clip and annotation, if ``strict``; a data set that lacks foreground masks altogether.
    """
    entry = dataset.index[clip]
    if strict:
        for problem in (*entry.problems, *entry.odd.values()):
            raise problem.error()
    if entry.silent is not None:
        return Truth((), frames=len(entry.frames), odd={entry.name: str(entry.silent)})
    lost = {eid: Expression(eid, "") for eid in entry.lost}
    expressions = (*entry.expressions.values(), *lost.values())
    if entry.refused is not None:
        return _refused(entry, expressions)
    broken = {eid: str(problem) for eid, problem in entry.lost.items()}
    odd = {eid: str(problem) for eid, problem in entry.odd.items()}
    truth = Truth(expressions, {}, len(entry.frames), None, dataset.annotated_frames(clip), odd, broken)
    try:
        dataset.clip(clip)
    except DataError as error:
        if strict:
            raise
        return replace(truth, broken={**dict.fromkeys(entry.expressions, str(error)), **broken})
    for expression in entry.expressions.values():
        _read_sample(benchmark, dataset, clip, expression.id, truth, strict)
    if not (foreground and truth.samples):
        return truth
    return _with_foreground(benchmark, dataset, clip, truth, strict)


def _refused(entry: ClipEntry, expressions: tuple[Expression, ...]) -> Truth:
    assert entry.refused is not None
    broken = {e.id: str(entry.refused) for e in expressions} or {entry.name: str(entry.refused)}
    return Truth(expressions, frames=len(entry.frames), broken=broken)


def _read_sample(benchmark: Benchmark, dataset: Dataset, clip: str, eid: str, truth: Truth, strict: bool) -> None:
    """Into ``truth``: first as the data must be, then as the benchmark's own tool takes them.

    Raises DataError for what concerns more than this clip, such as a file of masks that is no such file.
    """
    try:
        sample = benchmark.sample(dataset, clip, eid)
    except DataError as error:
        if strict or not _of_clip(error, clip):
            raise
        try:
            sample = benchmark.sample(dataset, clip, eid, by_rule=True)
        except DataError as worse:
            truth.broken[eid] = str(worse)
            return
        truth.odd[eid] = str(error)
    scored = benchmark.scored_frames(dataset, sample)
    if scored == ():
        truth.broken[eid] = f"{sample.id}: none of its frames has a mask file"
        return
    truth.samples[eid] = (sample, scored)


def _of_clip(error: DataError, clip: str) -> bool:
    return isinstance(error, BadDataError) and error.problem.clip == clip


def _with_foreground(benchmark: Benchmark, dataset: Dataset, clip: str, truth: Truth, strict: bool) -> Truth:
    try:
        return replace(truth, foreground=benchmark.foreground(dataset, clip))
    except DataError as error:
        if strict or not _of_clip(error, clip):
            raise
        try:
            found = replace(truth, foreground=benchmark.foreground(dataset, clip, by_rule=True))
        except DataError as worse:
            broken = {**dict.fromkeys(truth.samples, str(worse)), **truth.broken}
            return replace(truth, samples={}, broken=broken)
        found.odd[clip] = str(error)
        return found
