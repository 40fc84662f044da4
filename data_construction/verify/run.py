"""Verify a file of traces as a stream: held are the traces in flight, the ids' digests and the texts' signatures."""

from __future__ import annotations

import asyncio
from array import array
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_construction.generate.items import digest
from data_construction.problems import Progress
from data_construction.traces import BadLine, Sources, Trace, read_items, trace_files
from data_construction.verify.case import VerifySettings
from data_construction.verify.duplicates import NearDuplicates
from data_construction.verify.examine import Examiner, Verdict
from data_construction.verify.files import OutFolder
from data_construction.verify.judge import Judge
from data_construction.verify.registry import Failure, check_names, check_skipped
from data_construction.verify.report import DUPLICATE, VerifyReport
from data_construction.vlm import BudgetReachedError, EndpointError, StoppedError
from rollout.errors import DataError

NOT_ASKED = "not asked"


async def verify(
    source: Path,
    out: Path,
    sources: Sources,
    settings: VerifySettings | None = None,
    judge: Judge | None = None,
    judge_name: str = "",
    in_flight: int = 32,
    overwrite: bool = False,
    progress: Progress | None = None,
    command: Mapping[str, Any] | None = None,
) -> VerifyReport:
    """Check every trace of ``source`` and write it to ``out/verified.jsonl`` or, with check and reason, to
    ``out/rejected.jsonl``, in the input's order; ``out/retry.jsonl`` lists what has to be made again.

    The same call goes on where a killed one stopped, asks again for verdicts that it did not get, and takes in traces
    that were added meanwhile. ``command`` is kept in ``out/verify.json`` for whoever wants to make the same call.

    Raises:
        DataError: a wrong file or folder, or not one trace fits the data set.
        RecipeError: wrong settings, before anything is written; or settings that a trace disagrees with.
        EndpointError: no question to the judge can succeed; the verdicts there are lie on disk, in order.
    """
    source, settings = trace_files(source), settings or VerifySettings()
    check_skipped(settings)
    names = [*check_names(), *(["judge"] if judge else [])]
    folder = OutFolder(out, {**settings.to_dict(), "checks": names, "judge": judge_name}, overwrite, command)
    try:
        job = _Job(folder, Examiner(sources, settings, judge), NearDuplicates(settings.duplicate), progress)
        job.take_up(source)
        await job.run(source, in_flight if judge else 1)
    finally:
        folder.close()
    report = job.report
    if job.dead is not None:
        raise job.dead
    if report.total and report.set_aside == report.total:
        raise DataError(f"{source}: not one of {report.total} traces could be checked: {report.first_aside}")
    return report


class _Job:
    def __init__(self, folder: OutFolder, examiner: Examiner, texts: NearDuplicates, progress: Progress | None) -> None:
        self.folder, self.examiner, self.texts, self.progress = folder, examiner, texts, progress
        self.report = VerifyReport()
        self.done: set[int] = set()
        """Digests of the ids that have a verdict."""
        self.waiting: deque[asyncio.Task[Verdict]] = deque()
        self.dead: EndpointError | None = None

    def take_up(self, source: Path) -> None:
        """Count what an earlier job decided. Raises DataError if it decided on traces that the input does not hold."""
        for row in self.folder.rows():
            self.done.add(digest(str(row["id"])))
            self.report.count(row)
            if row.get("status") == "ok":
                trace = Trace.from_dict(row, str(row["id"]))
                self.texts.add(trace.id, self.texts.signature(_text(trace)))
        self._show()  # From here on goes the rate.
        if self.done:
            lost = self.done - {digest(id) for id, _ in _identified(source, VerifyReport())}
            if lost:
                what = f"{len(lost)} of its {len(self.done)} verdicts are on traces that {source} does not hold"
                raise DataError(f"{self.folder.folder}: {what}; give another folder, or --overwrite")

    async def run(self, source: Path, in_flight: int) -> None:
        order, here = array("Q"), set[int]()
        try:
            for id, item in _identified(source, self.report):
                key = digest(id)
                if key in here:
                    self.report.repeated = self.report.repeated or id
                    continue
                here.add(key)
                order.append(key)
                if key not in self.done and self.report.stopped:
                    self.report.open[NOT_ASKED] += 1
                elif key not in self.done:
                    self.waiting.append(asyncio.create_task(self.examiner.examine(id, item)))
                if len(self.waiting) >= in_flight:
                    await self._settle()
            while self.waiting:
                await self._settle()
            self.report.to_retry = self.folder.finish(order)
        finally:
            for task in self.waiting:
                task.cancel()
            await asyncio.gather(*self.waiting, return_exceptions=True)

    async def _settle(self) -> None:
        """Write the verdict on the oldest trace in flight; near-duplicates are found here, in order."""
        try:
            verdict = await self.waiting.popleft()
        except (BudgetReachedError, StoppedError, EndpointError) as e:
            self._stop(e)
            return
        if verdict.open:
            self.report.open[verdict.open.partition(":")[0]] += 1
            self.report.first_open = self.report.first_open or f"{verdict.id}: {verdict.open}"
            return
        if not verdict.failures and verdict.trace is not None and self.texts.threshold <= 1:
            signature = self.texts.signature(_text(verdict.trace))
            twin = self.texts.find(signature)
            if twin is None:
                self.texts.add(verdict.trace.id, signature)
            else:
                verdict = verdict.failed(Failure(DUPLICATE, f"{twin[1]:.2f} like {twin[0]}"))
        row = verdict.row()
        (self.folder.reject if verdict.failures else self.folder.accept)(row)
        self.report.count(row)
        self._show()

    def _stop(self, error: Exception) -> None:
        """What is in flight is settled still; of the rest only the ids are read, for the order."""
        self.report.stopped = self.report.stopped or str(error)
        self.report.open[NOT_ASKED] += 1
        if isinstance(error, EndpointError):
            self.dead = self.dead or error
        if self.examiner.judge is not None:
            self.examiner.judge.stop()

    def _show(self) -> None:
        if self.progress is not None:
            words = f"{self.report.verified} verified, {self.report.total - self.report.verified} rejected"
            self.progress(self.report.total, 0, words)


def _identified(source: Path, report: VerifyReport) -> Iterator[tuple[str, Trace | BadLine]]:
    """Items with their ids; a torn last line is only reported."""
    for item in read_items(source):
        if isinstance(item, Trace):
            yield item.id, item
        elif item.torn:
            report.torn = item.what
        else:
            yield f"line {item.number}", item


def _text(trace: Trace) -> str:
    """What makes a trace the same as another: its question and all that is replied."""
    return " ".join([trace.text, *trace.replies])
