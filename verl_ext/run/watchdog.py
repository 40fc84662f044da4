"""Notice a dead worker: verl 0.9.1 waits for ever when an actor dies inside weight sync. A run ends and says so."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from verl_ext.run.supervise import WORKER_DIED

logger = logging.getLogger(__name__)

WATCHED = (
    "WorkerDict",
    "HttpServer",
    "AgentLoopWorker",
    "SegActorRolloutRefWorker",
    "RewardLoopWorker",
    "SimpleStorageUnit",
    "TransferQueueController",
)
"""Class names (or parts of them) whose actors live as long as the run; the pool restarts its own."""
EXIT_CODE = 17
UNANSWERED = 5
"""Checks in a row that Ray does not answer, after which the run is taken for lost."""


def dead_actors() -> list[str]:
    """Names of watched actors that Ray reports dead, with the cause."""
    import ray
    from ray._private.state import actors

    job = ray.get_runtime_context().get_job_id()
    out = []
    for info in actors().values():
        name = str(info.get("ActorClassName", info.get("Name", "")))
        if info.get("State") == "DEAD" and info.get("JobID") == job and any(w in name for w in WATCHED):
            out.append(f"{name}: {_cause(info)}")
    return out


def _cause(info: dict[str, Any]) -> str:
    return " ".join(str(info.get("DeathCause", "")).split())[:300] or "no cause given"


@contextmanager
def watch_actors(every_seconds: float = 5.0) -> Iterator[None]:
    """Check while the block runs; a death ends this process, so that the driver's wait raises.

    A check that fails is logged and done again; Ray not answering ``UNANSWERED`` times in a row ends the process too,
    because nobody would notice a death any more.
    """
    finished = threading.Event()

    def watch() -> None:
        unanswered = 0
        while not finished.wait(every_seconds):
            try:
                dead = dead_actors()
            except Exception as e:  # whatever Ray raises: a thread that ended here would watch no more, in silence
                unanswered += 1
                logger.warning("watchdog: Ray did not answer (%d of %d): %s", unanswered, UNANSWERED, e)
                if unanswered >= UNANSWERED:
                    _end(f"Ray did not answer {unanswered} times in a row, at last: {e}", every_seconds)
                continue
            unanswered = 0
            if dead and not finished.wait(2 * every_seconds):  # an orderly end may be under way
                _end("; ".join(dead), every_seconds)

    thread = threading.Thread(target=watch, daemon=True, name="watchdog")
    thread.start()
    try:
        yield
    finally:
        finished.set()


def _end(why: str, every_seconds: float) -> None:
    logger.error("%s: %s. Continue it with --resume.", WORKER_DIED, why)
    time.sleep(min(every_seconds, 2.0))  # Ray carries the line into the run's log
    os._exit(EXIT_CODE)
