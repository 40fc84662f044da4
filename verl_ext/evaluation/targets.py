"""What ``videoseg eval`` is to run on: benchmarks or one split of a data set, and where each lies."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rollout.errors import DataError

if TYPE_CHECKING:
    from data_construction.readers import Dataset
    from eval.benchmarks import Benchmark
    from eval.inference.pipeline import Broken
    from rollout.types import Sample


WHOLE_CLIP = "(all of the clip)"
"""Stands for the expression where nothing of a clip can be used."""


@dataclass(frozen=True)
class Target:
    """One results folder to be filled."""

    benchmark: Benchmark
    root: Path
    out: Path
    official: bool
    """A benchmark with its own scorer; else J and F on any split."""

    def open(self) -> Dataset:
        """The data set without its ground truth: inference must not see it, and it may be gigabytes."""
        dataset = self.benchmark.dataset_at(self.root)
        dataset.masks = None
        return dataset


def benchmark_targets(names: str, roots: Sequence[str], out: Path) -> list[Target]:
    """``--benchmark a,b``: each in a folder of its own under ``out``.

    Raises:
        DataError: an unknown benchmark, one named twice, or one whose data are nowhere.
    """
    from eval.benchmarks import load_benchmark

    benchmarks = [load_benchmark(name.strip()) for name in names.split(",") if name.strip()]
    if not benchmarks:
        raise DataError("--benchmark: names none; give one or more, as in revos,mevis_u")
    twice = [b.name for i, b in enumerate(benchmarks) if b.name in [a.name for a in benchmarks[:i]]]
    if twice:
        raise DataError(f"--benchmark: {twice[0]} is named twice")
    return [Target(b, _root_of(b, benchmarks, roots), out / b.name, True) for b in benchmarks]


def dataset_target(dataset: str, roots: Sequence[str], split: str, out: Path) -> Target:
    """``--dataset D --split S``: results in ``out`` itself. Raises DataError unless there is exactly one root."""
    if len(roots) != 1:
        raise DataError(f"--root: --dataset takes one folder, {len(roots)} are given")
    path = Path(roots[0].removeprefix(f"{dataset}="))
    return Target(one_benchmark(None, dataset, split), path, out, False)


def one_benchmark(name: str | None, dataset: str | None, split: str) -> Benchmark:
    """``--benchmark NAME``, or J and F on ``--dataset D --split S``. Raises DataError unless exactly one is given."""
    from eval.benchmarks import Benchmark, benchmark_names, load_benchmark

    if name is not None and dataset is None:
        return load_benchmark(name)
    if dataset is not None and name is None:
        return Benchmark(Path(dataset).stem, dataset, split, scorer="jf")
    raise DataError(f"give --benchmark (one of {', '.join(benchmark_names())}) or --dataset, and not both")


def results_file(path: Path) -> Path:
    """``results.jsonl`` in an evaluation's folder; any other path is the file itself."""
    from eval.results.results_file import RESULTS_FILE

    return path / RESULTS_FILE if path.is_dir() else path


def _root_of(benchmark: Benchmark, all_of_them: Sequence[Benchmark], roots: Sequence[str]) -> Path:
    """``NAME=DIR`` for this benchmark or its data set; else the parent's sub-folder that is called like one of them
    (letters and digits count), else, where only one data set is asked for, the folder itself."""
    names = {b.name for b in all_of_them} | {b.dataset for b in all_of_them}
    named: dict[str, str] = {}
    parents: list[str] = []
    for value in roots:
        name, equals, path = value.partition("=")
        if equals and name in names:
            named[name] = path
        else:
            parents.append(value)
    for name in (benchmark.name, benchmark.dataset):
        if name in named:
            return Path(named[name])
    if len(parents) != 1:
        raise DataError(
            f"--root: {len(parents)} folders for benchmark {benchmark.name}; give --root {benchmark.name}=DIR, or one "
            "folder that holds all data sets"
        )
    from data_construction.readers.listing import listed

    parent = Path(parents[0])
    if not parent.is_dir():
        raise DataError(f"--root: {parent} is not a folder")
    wanted = {_plain(benchmark.name), _plain(benchmark.dataset)}
    inside = sorted(p for p in listed(parent) if p.is_dir() and _plain(p.name) in wanted)
    if inside:
        return inside[0]
    if len({b.dataset for b in all_of_them}) == 1:
        return parent
    raise DataError(
        f"--root: {parent} has no folder for benchmark {benchmark.name} (looked for one called like "
        f"{benchmark.dataset}, capitals, '-' and '_' aside); give --root {benchmark.name}=DIR"
    )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def frames_by_clip(dataset: Dataset) -> dict[str, int]:
    """Frames of every clip of a split that can be used."""
    return {clip: len(dataset.index[clip].frames) for clip in dataset.clips() if dataset.index[clip].refused is None}


def _spoilt(sample: Sample, images: str, target: Target, dataset: Dataset) -> Sample:
    """With the next clip of the split where another is wanted; the last is followed by the first."""
    from rollout.spoilt import WAYS, spoilt

    if not WAYS[images].wants_other:
        return spoilt(sample, images)
    clips = list(frames_by_clip(dataset))
    other = clips[(clips.index(sample.clip.name) + 1) % len(clips)]
    return spoilt(sample, images, dataset.clip(other))


def keys_of(target: Target, dataset: Dataset, max_samples: int | None, seed: int) -> list[tuple[str, str]]:
    """(clip, expression id) to run, in the data set's order; ``max_samples`` is a fixed draw by ``seed``."""
    import numpy as np

    keys = [(clip, e.id) for clip in dataset.clips() for e in dataset.expressions(clip)]
    if not keys:
        for broken in broken_of(dataset, keys, whole=True):
            raise broken.error
        raise DataError(f"{target.root}: split {target.benchmark.split} of {dataset.name} has no expressions")
    if max_samples is None or max_samples >= len(keys):
        return keys
    drawn = np.random.default_rng(seed).permutation(len(keys))[:max_samples]
    return [keys[i] for i in sorted(drawn)]


def broken_of(dataset: Dataset, keys: Sequence[tuple[str, str]], whole: bool) -> list[Broken]:
    """What the annotations are wrong about, so that it is no expression of ``keys``; in a draw, about its clips.

    A clip of which nothing can be used is named once, unless its expressions are in ``keys``: they fail by name.
    """
    from eval.inference.pipeline import Broken

    asked = {clip for clip, _ in keys}
    found = []
    for clip in dataset.clips() if whole else sorted(asked):
        entry = dataset.index[clip]
        if entry.refused is None:
            found += [Broken(clip, problem.item, problem.error()) for problem in entry.faults]
        elif clip not in asked:
            found.append(Broken(clip, WHOLE_CLIP, entry.refused.error()))
    return found


def stream(
    target: Target, dataset: Dataset, keys: Sequence[tuple[str, str]], images: str | None = None
) -> Iterator[Sample | Broken]:
    """The samples one at a time, their pictures spoilt where ``images`` says how; what the data set is wrong about
    comes as `Broken`."""
    from eval.inference.pipeline import Broken

    for clip, expression_id in keys:
        try:
            sample = target.benchmark.sample(dataset, clip, expression_id)
            yield sample if images is None else _spoilt(sample, images, target, dataset)
        except DataError as error:
            yield Broken(clip, expression_id, error)
