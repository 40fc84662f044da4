"""Waiting for the pool's actors: a cluster without room for them must say so, not wait for ever."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rollout.errors import WorkerError

LOOK_EVERY_S = 10.0
GROWTH_LIMIT_S = 120.0
"""For a cluster that is too small as a whole: its other machines may still be joining."""
START_LIMIT_S = 900.0
"""For workers that the cluster has room for; far beyond what loading weights from a slow disk takes."""


@dataclass(frozen=True)
class Wanted:
    """What the pool asks Ray for; CPUs and GPUs are those of one worker."""

    workers: int
    cpus: float
    gpus: float

    def lacking(self, resources: Mapping[str, float]) -> str:
        """What ``resources`` have too little of for all workers; empty if there is enough."""
        total = {"CPU": self.workers * self.cpus, "GPU": self.workers * self.gpus}
        short = [name for name, amount in total.items() if amount > resources.get(name, 0.0)]
        return " and ".join(f"{total[name]:g} {name}s, it has {resources.get(name, 0.0):g}" for name in short)


def wait_until_ready(workers: Sequence[Any], wanted: Wanted) -> None:
    """Returns once every worker is built; else kills all of them.

    Raises:
        WorkerError: one cannot be built, or they do not start; says what they need, what there is and the remedy.
    """
    import ray

    try:
        _wait([worker.ready.remote() for worker in workers], wanted)
    except (ray.exceptions.RayError, WorkerError) as error:
        for worker in workers:
            ray.kill(worker)
        if isinstance(error, WorkerError):
            raise
        raise WorkerError(f"a segmenter worker could not be built: {error}") from error


def _wait(left: list[Any], wanted: Wanted) -> None:
    import ray

    began = time.monotonic()
    while left:
        done, left = ray.wait(left, num_returns=len(left), timeout=LOOK_EVERY_S)
        ray.get(done)
        seconds = time.monotonic() - began
        lacking = wanted.lacking(ray.cluster_resources()) if left else ""
        if not left or seconds < (GROWTH_LIMIT_S if lacking else START_LIMIT_S):
            continue
        free = ray.available_resources()
        why = f"the cluster is too small, they need {lacking}" if lacking else "others hold their share, or they hang"
        raise WorkerError(
            f"{len(left)} of {wanted.workers} segmenter workers ({wanted.cpus:g} CPUs and {wanted.gpus:g} GPUs each) "
            f"did not start in {seconds:.0f} s; {why}. Free are {free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} "
            "GPUs. Lower pool.workers, pool.cpus_per_worker or pool.gpus_per_worker, or start Ray with more"
        )
