"""The pool: Ray actors that hold SAM 2, fed asynchronously and restarted when they die.

One process owns the pool. A thread per worker hands it the next clip's requests and waits for the answer; callers get
futures. What crosses processes is small: clip paths, frame numbers, states, RLEs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any

from rewards.pool.affinity import AffinityQueue, Job
from rewards.pool.start import Wanted, wait_until_ready
from rewards.pool.worker import SegmenterWorker, WorkerSettings
from rewards.segmenter.config import SegmenterConfig
from rewards.segmenter.types import Request
from rollout.errors import WorkerError
from rollout.ray_env import ray_address

RESTART_PAUSE_S = 0.5
"""Before a worker's successor starts, so that a machine out of memory is not hammered."""
STALL_S, STALL_S_A_FRAME = 1800.0, 10.0
"""A worker may take so long for its requests, and so long for each of their clips' frames: a slow CPU's pace."""


class SegmenterPool:
    """Scores requests on ``num_workers`` actors; use as a context manager or call :meth:`close`.

    Args:
        config: the segmenter that every worker builds.
        weights: its weights: a file that every node can read (see ``load_sam2_weights``), SAM 2's state dict, or None
            for the seeded random ones.
        num_cpus, num_gpus: what Ray reserves for each worker; with ``num_gpus`` above 0 it runs on CUDA.
        device: where it runs; ``cuda`` with ``num_gpus`` 0 shares a GPU that Ray has given to somebody else.
        threads: torch threads of a worker; by default one per reserved CPU.
        max_resident_frames: encoded frames that a worker keeps (8 MB each for Hiera-L in bfloat16).
        max_batch: masks decoded, or items propagated, in one forward.
        compile_segmenter: compile the image encoder and the steps of propagation where a worker runs on CUDA.
        max_retries: how often a request's worker may die before the request fails.
    Raises:
        WorkerError: a worker cannot be built, or Ray has no room for it; says why.
    """

    def __init__(
        self,
        config: SegmenterConfig,
        weights: Path | Mapping[str, Any] | None = None,
        *,
        num_workers: int = 1,
        num_cpus: float = 1.0,
        num_gpus: float = 0.0,
        device: str | None = None,
        threads: int | None = None,
        max_resident_frames: int = 256,
        max_batch: int = 64,
        max_requests_per_call: int = 64,
        max_retries: int = 2,
        compile_segmenter: bool = False,
    ) -> None:
        import ray

        if num_workers < 1:
            raise ValueError(f"num_workers: {num_workers}; a pool needs at least one")
        if not ray.is_initialized():  # else the first actor would make Ray join whatever lies about on the machine
            ray.init(address=ray_address(), include_dashboard=False, log_to_driver=False)
        self.config = config
        self._max_retries = max_retries
        self._settings = WorkerSettings(
            config=config,
            weights=weights if isinstance(weights, Path) else None,
            device=device or ("cuda" if num_gpus > 0 else "cpu"),
            threads=max(1, int(num_cpus)) if threads is None else threads,
            max_resident_frames=max_resident_frames,
            max_batch=max_batch,
            compile_segmenter=compile_segmenter,
        )
        # spread, or workers packed onto one machine could take the GPUs that the actor needs on every machine
        strategy = "SPREAD" if num_gpus > 0 else "DEFAULT"
        self._actor_class = ray.remote(SegmenterWorker).options(
            num_cpus=num_cpus, num_gpus=num_gpus, max_restarts=0, scheduling_strategy=strategy
        )
        self._weights = None if weights is None or isinstance(weights, Path) else ray.put(dict(weights))
        self._decoder: Any = None
        self._lock = threading.Lock()
        self._closing = False
        self.restarts = 0
        """Workers that died and were replaced."""
        self._workers = [self._start() for _ in range(num_workers)]
        wait_until_ready(self._workers, Wanted(num_workers, num_cpus, num_gpus))
        self._queue = AffinityQueue(num_workers, max_requests_per_call)
        self._threads = [threading.Thread(target=self._serve, args=(i,), daemon=True) for i in range(num_workers)]
        for thread in self._threads:
            thread.start()

    @property
    def prompt_width(self) -> int:
        """Width C of a ``[SEG]`` state."""
        return self.config.prompt_width

    def submit(self, requests: Sequence[Request]) -> list[Future[Any]]:
        """Start scoring; one future per request, in order.

        A future raises `DataError` for a clip that cannot be read, `WorkerError` for a request that kept failing.
        """
        jobs = [Job(request) for request in requests]
        if not self._queue.put(jobs):
            raise WorkerError("the pool is closed")
        return [job.future for job in jobs]

    def score(self, requests: Sequence[Request]) -> list[Any]:
        """Score and wait: the answers in order; raises the first error once all requests are done."""
        futures = self.submit(requests)
        errors = [e for f in futures if (e := f.exception()) is not None]
        if errors:
            raise errors[0]
        return [f.result() for f in futures]

    def load_decoder(self, weights: Mapping[str, Any]) -> None:
        """Give every worker, and each future successor, new prompt-encoder and mask-decoder weights.

        Returns when all have them: requests submitted afterwards see them. Keys are sam2's own names.
        """
        import ray

        with self._lock:
            self._decoder = ray.put({k: v.detach().cpu() for k, v in weights.items()})
            refs = [(worker, worker.load_decoder.remote(self._decoder)) for worker in self._workers]
        for worker, ref in refs:
            try:
                ray.get(ref)
            except ray.exceptions.RayTaskError as error:
                raise WorkerError(f"segmenter worker refused decoder weights: {error.cause}") from error
            except ray.exceptions.RayError:
                ray.kill(worker)  # if it is not dead yet: its successor is built with them
        self._queue.forget_homes()  # nothing encoded before is of use now, so clips may spread anew

    def workers(self) -> list[Any]:
        """Actor handles, for health checks."""
        return list(self._workers)

    def encoded_frames(self) -> int:
        """Frames that went through the image encoders of the workers alive now."""
        import ray

        return sum(ray.get([w.encoded_frames.remote() for w in self._workers]))

    def close(self) -> None:
        """Stop all workers; requests not done yet fail with `WorkerError`. Safe to call twice."""
        import ray

        with self._lock:
            self._closing = True  # from here on no successor starts
        for job in self._queue.close():
            job.settle(_closed_error(job))
        for worker in self._workers:
            if ray.is_initialized():
                ray.kill(worker)
        for thread in self._threads:
            thread.join(timeout=10)

    def __enter__(self) -> SegmenterPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _start(self) -> Any:
        return self._actor_class.remote(self._settings, self._weights, self._decoder)

    def _serve(self, index: int) -> None:
        """Thread of worker ``index``: until closed, hand over the next clip's requests and settle their futures."""
        import ray

        while taken := self._queue.take(index):
            jobs = [job for job in taken if job.start()]
            try:
                answer = self._workers[index].score.remote([job.request for job in jobs])
                outcomes = ray.get(answer, timeout=_patience(jobs))
            except Exception as error:
                own = isinstance(error, ray.exceptions.RayTaskError) or not isinstance(error, ray.exceptions.RayError)
                if not own:  # dead, whoever killed it (Ray's memory monitor has an error class of its own), or hung
                    self._recover(index, jobs, error)
                elif len(jobs) > 1:  # what went wrong belongs to one of these requests, and reaches its caller
                    self._again(jobs)
                else:
                    _fail(jobs, error)
            else:
                for job, outcome in zip(jobs, outcomes, strict=True):
                    job.settle(outcome)

    def _recover(self, index: int, jobs: list[Job], error: Exception) -> None:
        """Replace a dead worker and queue its requests again."""
        import ray

        try:
            if not self._closing:
                time.sleep(RESTART_PAUSE_S)
            with self._lock:
                if not self._closing:  # else close() has killed all there were
                    ray.kill(self._workers[index])  # one that is only lost to us would keep its GPU
                    self._workers[index] = self._start()
                    self.restarts += 1
        except Exception as restart_error:  # Ray itself is gone: tell the callers instead of leaving them waiting
            _fail(jobs, restart_error)
            return
        for job in jobs:
            job.deaths += 1
        lost = [job for job in jobs if job.deaths > self._max_retries]
        _fail(lost, error, f"its worker died {self._max_retries + 1} times; last: {error}")
        self._again([job for job in jobs if job.deaths <= self._max_retries])

    def _again(self, jobs: list[Job]) -> None:
        """Queue each for itself."""
        for job in jobs:
            job.alone = True
        if not self._queue.put(jobs):
            for job in jobs:
                job.settle(_closed_error(job))


def _patience(jobs: list[Job]) -> float:
    """Seconds after which a worker with these requests is taken for hung, and replaced."""
    return STALL_S + STALL_S_A_FRAME * sum(job.request.clip.num_frames for job in jobs)


def _fail(jobs: list[Job], error: Exception, why: str | None = None) -> None:
    for job in jobs:
        request = job.request
        what = why or getattr(error, "cause", None) or error  # Ray's own text is the whole remote traceback
        failure = WorkerError(f"clip {request.clip.name}: {type(request).__name__} failed: {what}")
        failure.__cause__ = error
        job.settle(failure)


def _closed_error(job: Job) -> WorkerError:
    return WorkerError(f"clip {job.request.clip.name}: the pool was closed before this request was done")
