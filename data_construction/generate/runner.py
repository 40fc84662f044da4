"""The job: read, prepare, ask, write; many items at once, a bounded number of them in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from data_construction.generate.folder import JobFolder
from data_construction.generate.items import Item, SetAside, Source
from data_construction.generate.journal import Journal
from data_construction.generate.summary import Summary
from data_construction.problems import Progress
from data_construction.vlm import BudgetReachedError, Client, EndpointError, GaveUpError, StoppedError, Usage
from rollout.errors import DataError

Line = dict[str, Any]
W = TypeVar("W")
BAR_SECONDS = 0.1


class Work(Protocol):
    """An item that is ready to be asked for."""

    async def ask(self, client: Client) -> Line:
        """Its finished trace. Raises as ``Client.ask``."""
        ...


class Method(Protocol):
    """What is made of an item."""

    source: Source

    def prepare(self, item: Item) -> Work:
        """Plan, decode, draw, encode; runs in a thread. Raises DataError for an item that has to be set aside."""
        ...

    def estimate(self, item: Item) -> list[int]:
        """Prompt tokens of each request it will take, roughly. Raises as ``prepare``, but opens no frame."""
        ...

    def failure(self, item: Item | SetAside, reason: str, usage: Usage) -> Line:
        """The line for ``failed.jsonl``."""
        ...


class Runner:
    """One run of a job. ``stop`` may be called by a signal handler: it ends once the requests in flight are over."""

    def __init__(
        self, method: Method, client: Client, folder: JobFolder, threads: int = 2, progress: Progress | None = None
    ) -> None:
        self.method, self.client, self.folder, self.progress = method, client, folder, progress
        self.summary = Summary(items=len(method.source))
        # Frames are decoded and encoded in C, outside Python's lock: threads do, and a killed job leaves no process.
        self._threads = ThreadPoolExecutor(threads, "prepare")
        self._reader = ThreadPoolExecutor(1, "read")  # A data set's caches are not made for several threads.
        self._lanes = client.settings.concurrency + 2 * threads
        self._items: Iterator[Item | SetAside | None] = iter(method.source.items(folder.done))
        self._dead: EndpointError | None = None
        self._begun = self._drawn = time.monotonic()

    def stop(self, why: str) -> None:
        self.summary.stopped = self.summary.stopped or why
        self.client.stop()

    async def run(self) -> Summary:
        """Everything that is not done yet, then both files in order.

        Raises EndpointError where no request can succeed; what was finished, and what was in flight then and still got
        its answer, is on disk and in order.
        """
        self.folder.spent.keep(self.client.ledger)
        self.client.health.served = len(self.folder) > 0
        traces, failed = _Writer(self.folder.traces), _Writer(self.folder.failed)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._lanes):
                    group.create_task(self._lane(traces, failed))
        except ExceptionGroup as errors:
            raise _first(errors) from None
        finally:
            self._threads.shutdown(wait=True, cancel_futures=True)
            self._reader.shutdown(wait=True, cancel_futures=True)
            await traces.flush()  # A cancelled lane leaves its line behind.
            await failed.flush()
            self.folder.finish(self.method.source.ids())
            self.summary.seconds = time.monotonic() - self._begun
        if self._dead is not None:
            raise self._dead
        return self.summary

    async def _lane(self, traces: _Writer, failed: _Writer) -> None:
        loop = asyncio.get_running_loop()
        while not self.client.stopping:
            more, item = await loop.run_in_executor(self._reader, self._next)
            if not more:
                return
            if item is None:
                self.summary.there += 1
            elif isinstance(item, SetAside):
                await self._set_aside(item, failed)
            else:
                await self._make(item, traces, failed)
            self._show()

    async def _make(self, item: Item, traces: _Writer, failed: _Writer) -> None:
        try:
            prepared = asyncio.get_running_loop().run_in_executor(self._threads, self.method.prepare, item)
            line = await (await prepared).ask(self.client)
        except DataError as e:
            clip, expression = item.sample.clip.name, item.sample.expression
            await self._set_aside(SetAside.because(e, item.id, clip, expression), failed)
        except GaveUpError as e:
            await failed.write(self.method.failure(item, f"{e.reason}: {e}", e.wasted))
            self.summary.failed[e.reason] += 1
        except EndpointError as e:
            self._dead = self._dead or e
            self.stop(str(e))
        except BudgetReachedError as e:
            self.stop(str(e))
        except StoppedError:
            self.stop("told to stop")
        else:
            await traces.write(line)
            self.summary.made += 1

    async def _set_aside(self, item: SetAside, failed: _Writer) -> None:
        await failed.write(self.method.failure(item, f"{item.code}: {item.reason}", Usage()))
        self.summary.set_aside[item.code] += 1

    def _next(self) -> tuple[bool, Item | SetAside | None]:
        """(False, None) at the end."""
        for item in self._items:
            return True, item
        return False, None

    def _show(self) -> None:
        now = time.monotonic()
        if self.progress is not None and (now - self._drawn > BAR_SECONDS or self.summary.finished == len(self)):
            self._drawn = now
            pace = self.summary.pace(self.client.ledger, now - self._begun)
            self.progress(self.summary.finished, self.summary.items, pace)

    def __len__(self) -> int:
        return self.summary.items


class _Writer:
    """Lines of many lanes to one journal: what has gathered during one wait for the disk goes with the next."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._waiting: list[Line] = []
        self._turn = asyncio.Lock()

    async def write(self, line: Line) -> None:
        """On disk when this returns, also when the lane is cancelled meanwhile."""
        self._waiting.append(line)
        await asyncio.shield(asyncio.ensure_future(self.flush()))

    async def flush(self) -> None:
        async with self._turn:
            batch, self._waiting = self._waiting, []
            if batch:
                await asyncio.to_thread(self._journal.append, batch)


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one to show."""
    return next((e for e in errors.exceptions if not isinstance(e, BaseExceptionGroup)), errors)
