"""From a results file to a submission: looked through before it is written, read again before it gets its name."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from eval.benchmarks import Benchmark
from eval.scores.pool import cpu_count
from eval.submission.check import verify
from eval.submission.plan import Plan, Progress, Target, make_plan
from eval.submission.store import Add, new_tree, new_zip
from rollout.errors import DataError

CHUNK = 256
"""Files whose content is in memory at a time."""


@dataclass(frozen=True)
class Packed:
    """What was written."""

    path: Path
    clips: int
    expressions: int
    files: int
    bytes: int
    filled: list[str]
    """Expressions that were handed in with empty masks, as there was no prediction."""
    unread: dict[str, str]
    """What is not in it, as the annotations cannot be read: ``clip/expression`` or a whole clip -> why."""


def write_submission(
    results: Path,
    benchmark: Benchmark,
    root: str | Path,
    out: Path,
    *,
    fill_missing: bool = False,
    overwrite: bool = False,
    strict: bool = False,
    progress: Progress | None = None,
) -> Packed:
    """Write ``out``, a zip if it is called so and a folder otherwise, whole or not at all.

    One clip is in memory at a time; a zip holds besides the names of all files. The same results give the same bytes.

    Args:
        results: ``results.jsonl``.
        root: the data set's folder.
        fill_missing: hand in empty masks for what the results lack, which raises otherwise.
        overwrite: replace a zip that is there already.
        strict: raise for the first annotation that cannot be read, which is left out otherwise.

    Raises:
        DataError: results that do not fit the benchmark or lack expressions; ``out`` exists; a benchmark without
            submission format; a written file that does not read back as it should.
    """
    report = progress or (lambda done, total, what: None)
    is_zip = out.suffix.lower() == ".zip"
    if out.exists() and not (is_zip and overwrite and out.is_file()):
        remedy = "give another name, or --overwrite" if is_zip else "give another folder, or remove it first"
        raise DataError(f"{out}: already exists; {remedy}")
    target = Target(benchmark, Path(root), strict)
    plan = make_plan(results, target, report)
    if not fill_missing:
        plan.refuse_missing()

    def check(part: Path) -> None:
        if problems := verify(part, target, report):
            raise DataError(f"{out}: not written, it did not read back as it should: {'; '.join(problems[:5])}")

    with (new_zip if is_zip else new_tree)(out, check) as add:
        expressions, files, size = _write(plan, add, report)
    return Packed(out, len(target.clips), expressions, files, size, plan.missing, target.unread)


def _write(plan: Plan, add: Add, progress: Progress) -> tuple[int, int, int]:
    """(expressions, files, bytes)."""
    expressions = files = size = 0
    with ThreadPoolExecutor(cpu_count()) as pool:
        for done, wanted in enumerate(plan.target):
            progress(done, len(plan.target.clips), f"packing {wanted.clip.name}")
            expressions += len(wanted.expressions)
            entries = list(plan.target.packager.entries(wanted.clip, plan.answers(wanted)))
            for first in range(0, len(entries), CHUNK):
                some = entries[first : first + CHUNK]
                for entry, content in zip(some, pool.map(lambda e: e.content(), some), strict=True):
                    add(entry.path, content)
                    files, size = files + 1, size + len(content)
    return expressions, files, size
