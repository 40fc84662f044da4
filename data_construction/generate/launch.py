"""Running a job from a plain function: event loop, signals, files at the end."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_construction.atomic import write_json
from data_construction.generate.folder import TRACES, JobFolder
from data_construction.generate.items import Item, SetAside
from data_construction.generate.runner import Method, Runner
from data_construction.generate.summary import Summary
from data_construction.problems import Progress
from data_construction.vlm import Client, ClientSettings, Ledger, ResponseCache
from rollout.errors import DataError

SUMMARY = "summary.json"


@dataclass(frozen=True)
class Job:
    """``settings`` are those that shape the traces: a restart must have the same. ``cache`` None keeps no replies."""

    method: Method
    settings: Mapping[str, Any]
    out: Path
    client: ClientSettings
    cache: Path | None
    threads: int = 2
    """That prepare requests."""
    finish: Callable[[Path], object] | None = None
    """Called with ``out`` once the traces are in order, however the run ended."""


@dataclass
class Estimate:
    """What a job would ask for. Token numbers are rough; ``completion_tokens`` is the most there can be."""

    items: int = 0
    there: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    set_aside: Counter[str] = field(default_factory=Counter)


def run_job(job: Job, progress: Progress | None = None) -> tuple[Summary, Ledger]:
    """Do what is left to do. SIGINT and SIGTERM stop it after the requests in flight; a second one stops those.

    Raises:
        EndpointError: no request can succeed; what was finished is on disk and in order.
        DataError, RecipeError: the folder belongs to another job, or a setting is wrong.
    """
    return asyncio.run(_run(job, progress))


async def _run(job: Job, progress: Progress | None) -> tuple[Summary, Ledger]:
    ledger = Ledger(job.client.prices, job.client.max_cost)
    client = Client(job.client, ResponseCache(job.cache), ledger)
    try:
        with JobFolder(job.out, job.settings) as folder:
            runner = Runner(job.method, client, folder, job.threads, progress)
            try:
                with _signals(runner):
                    await runner.run()
            except asyncio.CancelledError:
                runner.stop("interrupted")
            finally:
                if job.finish is not None:
                    job.finish(job.out)
                write_json(job.out / SUMMARY, runner.summary.to_dict(ledger))
        return runner.summary, ledger
    finally:
        await client.close()


class _signals:
    """While it lasts, the first SIGINT or SIGTERM stops the runner, the second cancels the task."""

    def __init__(self, runner: Runner) -> None:
        self.runner, self.loop, self.task = runner, asyncio.get_running_loop(), asyncio.current_task()
        self.taken = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()

    def __enter__(self) -> None:
        for number in self.taken:
            self.loop.add_signal_handler(number, self._stop, number)

    def __exit__(self, *_: object) -> None:
        for number in self.taken:
            self.loop.remove_signal_handler(number)

    def _stop(self, number: signal.Signals) -> None:
        if self.runner.client.stopping and self.task is not None:
            self.task.cancel()
        self.runner.stop(f"interrupted ({signal.Signals(number).name})")


def estimate_job(job: Job, progress: Progress | None = None) -> Estimate:
    """What ``run_job`` would ask for; reads annotations and masks, sends nothing, writes nothing."""
    source, out = job.method.source, Estimate(items=len(job.method.source))
    known: Callable[[str], bool] = lambda _: False  # noqa: E731
    if (job.out / TRACES).is_file() and (job.out / TRACES).stat().st_size:
        with JobFolder(job.out, job.settings) as folder:
            known = folder.done
    for n, item in enumerate(source.items(known)):
        if progress is not None:
            progress(n, out.items, "planning")
        if item is None:
            out.there += 1
        elif isinstance(item, SetAside):
            out.set_aside[item.code] += 1
        else:
            _add(out, item, job)
    out.cost = job.client.prices.usage(out.prompt_tokens, out.completion_tokens).cost
    return out


def _add(out: Estimate, item: Item, job: Job) -> None:
    try:
        prompts = job.method.estimate(item)
    except DataError as e:
        out.set_aside[SetAside.because(e, item.id, "", None).code] += 1
        return
    out.requests += len(prompts)
    out.prompt_tokens += sum(prompts)
    out.completion_tokens += len(prompts) * job.client.max_tokens
