"""A benchmark's results file to scores, one clip in memory at a time in each of several processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from eval.benchmarks import Benchmark
from eval.results.index import Key, Place, index_results
from eval.results.run_info import RunInfo
from eval.scorers.types import Scores
from eval.scores.clip import ClipJob, ClipScorer, Options, Scored
from eval.scores.info import Progress, summarise
from eval.scores.pool import cpu_count, map_unordered
from rollout.errors import DataError

BYTES_A_PROCESS = 2 << 20
"""Of results: for less, starting another process takes longer than it saves."""


def score_benchmark(
    results: Path,
    benchmark: Benchmark,
    root: str | Path,
    *,
    exact: bool = False,
    released: bool = False,
    strict: bool = False,
    largest: bool = False,
    workers: int | None = None,
    keys: Iterable[Key] | None = None,
    run: RunInfo | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Score every expression of the benchmark; what the results lack counts 0 in every score and is listed.

    Args:
        results: ``results.jsonl``.
        root: the data set's folder.
        exact: keep every digit where the official tool rounds (ReVOS, Ref-SAV).
        released: as the released tool does it where ours differs on purpose: what is missing, ReVOS' A and R.
        strict: raise for the first annotation that is odd or cannot be used; otherwise those that the benchmark's own
            tool takes count as it takes them, the others 0, and all are listed.
        largest: score the baseline of each clip's largest object as well.
        workers: processes; default one a core, fewer for small results. Each holds one clip.
        keys: (clip, expression id) of a draw; nothing else is scored, nor missed. None: the whole benchmark.
        run: how the results came about; copied into the scores.
        progress: called with (done, total, what), counting clips.

    Raises:
        DataError: a benchmark without public ground truth; results of another benchmark (a clip or expression it
            lacks, another text, frame count or size); a duplicate; an RLE that does not decode; under ``strict`` data
            that misfit; under ``released`` missing predictions that the tool refuses.
        WorkerError: a scoring process died.
    """
    work = ClipScorer(benchmark, Path(root), results, Options(exact, released, strict, largest))
    if benchmark.scorer is None:
        raise DataError(
            f"benchmark {benchmark.name} has no public ground truth, so it cannot be scored here; "
            f"pack a submission{f' for {benchmark.server}' if benchmark.server else ''} instead (videoseg submit)"
        )
    plan = _plan(work, index_results(results), None if keys is None else list(keys))
    report = progress or (lambda done, total, what: None)
    report(0, len(plan), "scoring")
    processes = workers or min(cpu_count(), len(plan), 1 + results.stat().st_size // BYTES_A_PROCESS)
    rows: dict[int, Scored] = {}
    for i, scored in map_unordered(work, _with_truth(work, plan, processes), processes):
        rows[i] = scored
        report(len(rows), len(plan), f"scoring {plan[i].clip}")
    ordered = [row for i in range(len(plan)) for row in rows[i].rows]
    if not ordered:
        raise DataError(f"{root}: no expressions to score in split {benchmark.split} of {benchmark.dataset}")
    drawn = "" if keys is None else f"a draw of {len(ordered)} expressions"
    about = {
        "benchmark": benchmark.name,
        "dataset": benchmark.dataset,
        "split": benchmark.split,
        "scorer": benchmark.scorer,
        "note": "; ".join(filter(None, (drawn, work.scorer.note))),
        "rounding": None if exact else work.scorer.decimals,
        "scored_frames": benchmark.frames or "all",
        "published": benchmark.published,
        "odd": {name: why for i in range(len(plan)) for name, why in rows[i].odd.items()},
        "broken": {name: why for i in range(len(plan)) for name, why in rows[i].broken.items()},
    }
    rule = benchmark.missing
    return summarise(ordered, work.scorer, groups=benchmark.groups, run=run, about=about, missing=rule)


def _plan(work: ClipScorer, places: dict[Key, Place], keys: list[Key] | None) -> list[ClipJob]:
    """One job a clip, in the data set's order. Raises DataError if the results hold a clip that it lacks."""
    jobs = {clip: ClipJob(clip, {}) for clip in work.dataset.clips()}
    unknown = [key for key in places if key[0] not in jobs]
    if unknown:
        clip, expression_id = unknown[0]
        raise DataError(
            f"{work.results}, line {places[unknown[0]].number}: {clip}/{expression_id} is of no clip of benchmark "
            f"{work.benchmark.name} (so are {len(unknown)} of {len(places)} records); of another benchmark or split?"
        )
    for (clip, expression_id), place in places.items():
        jobs[clip].places[expression_id] = place
    if keys is None:
        return list(jobs.values())
    drawn: dict[str, set[str]] = {}
    for clip, expression_id in keys:
        drawn.setdefault(clip, set()).add(expression_id)
    return [replace(job, only=frozenset(drawn[clip])) for clip, job in jobs.items() if clip in drawn]


def _with_truth(work: ClipScorer, plan: list[ClipJob], processes: int) -> Iterator[ClipJob]:
    """Jobs as they go to the processes.

    Masks that all lie in one file are read here, once, and sent a clip at a time: every process would hold that whole
    file otherwise. Masks in a folder are read where they are needed, in parallel.
    """
    dataset = work.dataset
    one_file = dataset.files.masks is not None and (dataset.root / dataset.files.masks).is_file()
    for job in plan:
        yield replace(job, truth=work.truth(job.clip)) if processes > 1 and one_file else job
