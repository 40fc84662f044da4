"""A finished submission read again: every file that is wanted, of the right form, and no other."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from eval.benchmarks import Benchmark
from eval.scores.pool import cpu_count
from eval.submission.plan import Progress, Target, Wanted
from eval.submission.store import Source, open_source

CHUNK = 256
"""Files in memory at a time."""
MOST = 100
"""So many problems are reported; the rest is of their kind."""


def check_submission(
    path: Path, benchmark: Benchmark, root: str | Path, progress: Progress | None = None, *, strict: bool = False
) -> list[str]:
    """Everything that is wrong with a zip or folder, at most ``MOST`` sentences, each naming its file; empty if sound.

    Nothing is unpacked to disk. Raises DataError for what is no submission at all: no zip, paths that could leave a
    folder, data that are not there.
    """
    return verify(path, Target(benchmark, Path(root), strict), progress or (lambda done, total, what: None))


def verify(path: Path, target: Target, progress: Progress) -> list[str]:
    """``check_submission`` for a target that is open already."""
    source = open_source(path)
    sizes = source.sizes()
    with ThreadPoolExecutor(cpu_count()) as pool:
        found = list(islice(_problems(source, sizes, target, pool, progress), MOST))
    return found


def _problems(
    source: Source, sizes: dict[str, int], target: Target, pool: ThreadPoolExecutor, progress: Progress
) -> Iterator[str]:
    unexpected = set(sizes)
    for done, wanted in enumerate(target):
        progress(done, len(target.clips), f"reading back {wanted.clip.name}")
        paths = target.packager.paths(wanted.clip, wanted.expressions)
        there = []
        for path in paths:
            if path not in sizes:
                yield f"{path}: missing"
            elif sizes[path] > target.packager.largest:
                yield f"{path}: has {sizes[path]} bytes, which no such file has"
            else:
                there.append(path)
        unexpected.difference_update(paths)
        for first in range(0, len(there), CHUNK):
            some = there[first : first + CHUNK]
            yield from _wrong(source, target, wanted, some, pool)
    yield from (f"{path}: is not a file of benchmark {target.benchmark.name}" for path in sorted(unexpected))


def _wrong(source: Source, target: Target, wanted: Wanted, paths: list[str], pool: ThreadPoolExecutor) -> Iterator[str]:
    def look(read: tuple[str, bytes]) -> list[str]:
        path, content = read
        return [
            f"{path}: {problem}" for problem in target.packager.problems(wanted.clip, wanted.expressions, path, content)
        ]

    for found in pool.map(look, [(path, source.read(path)) for path in paths]):
        yield from found
