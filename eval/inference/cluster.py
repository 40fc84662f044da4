"""The Ray actors of an evaluation: policy workers, one a GPU, and the segmenter pool beside them."""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.inference.fleet import Fleet, WorkerDiedError
from rewards.pool.desk import DeskServer
from rollout.environment import verifies
from rollout.errors import EnvironmentMismatchError, RecipeError, VideosegError, WorkerError
from rollout.ray_env import joins_a_cluster, merge_with_the_jobs_variables, ray_address, socket_problem

if TYPE_CHECKING:
    from eval.inference.dialogue import InferenceSettings
    from rewards.scoring import Scoring

POLICY_SHARE, POOL_SHARE = 0.8, 0.2
"""How Ray divides a GPU between its policy worker and its pool worker (memory is the engine's setting)."""


class RayHandle:
    """A policy worker behind `eval.inference.fleet.Handle`."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def start(self) -> Future[Any]:
        return _watched(self.actor.start.remote())

    def run(self, sample: dict[str, Any], settings: Mapping[str, Any] | None) -> Future[Any]:
        return _watched(self.actor.run.remote(sample, settings))

    def kill(self) -> None:
        import ray

        ray.kill(self.actor)


def _watched(ref: Any) -> Future[Any]:
    """The reference's future, in which a dead actor is a `WorkerDiedError`."""
    import ray

    out: Future[Any] = Future()

    def settle(done: Future[Any]) -> None:
        error = done.exception()
        if isinstance(error, ray.exceptions.RayActorError):
            out.set_exception(WorkerDiedError(str(error).strip().splitlines()[0]))
        elif error is not None:
            out.set_exception(getattr(error, "cause", None) or error)
        else:
            out.set_result(done.result())

    ref.future().add_done_callback(settle)
    return out


def _wait(start: Future[Any], seconds: float) -> None:
    """Raises WorkerError with what the worker said, or if it says nothing for so long; an error of ours as it is."""
    try:
        start.result(seconds)
    except VideosegError:
        raise
    except TimeoutError as error:
        if start.done():  # it is the worker's own
            raise WorkerError(f"a policy worker could not be started: {error}") from error
        raise WorkerError(
            f"a policy worker did not start within {seconds:g} seconds: it hangs, or waits for GPUs or CPUs that "
            "others hold (`ray status` tells); end what holds them and run the same command again"
        ) from error
    except Exception as error:
        raise WorkerError(f"a policy worker could not be started: {type(error).__name__}: {error}") from error


@dataclass
class Cluster:
    """Running actors; :meth:`close` stops them."""

    fleet: Fleet
    events: queue.SimpleQueue[Any]
    """Where the fleet's and the pool's answers arrive."""
    pool: Any
    scoring: Scoring
    """Says which masks to ask the pool for."""
    started_ray: bool = False
    folder: str = ""
    current: dict[str, str] = field(default_factory=dict)
    """The folder that a replaced worker starts with."""
    decoder_weights: Callable[[Path], dict[str, Any]] = lambda folder: {}
    """What the pool's workers need of another policy."""
    desk: DeskServer | None = None
    """Between dialogues that show the policy its own masks and the pool."""

    @property
    def workers(self) -> list[Any]:
        """Actor handles of the policy workers."""
        return [handle.actor for handle in self.fleet.handles if isinstance(handle, RayHandle)]

    @property
    def restarts(self) -> int:
        """Workers of either kind that died and were replaced."""
        return self.fleet.restarts + int(self.pool.restarts)

    def close(self) -> None:
        import ray

        if self.desk is not None:
            self.desk.close()
        self.pool.close()
        for worker in self.workers:
            ray.kill(worker)
        if self.started_ray:
            ray.shutdown()


def start_cluster(
    folder: Path,
    settings: InferenceSettings,
    device: str = "cpu",
    gpus: int = 1,
    worker_class: type[Any] | None = None,
) -> Cluster:
    """Start one policy worker a GPU (one in all on a CPU) and as many pool workers with its SAM 2.

    Ray is started as well, or joined where ``RAY_ADDRESS`` names one, unless this process has one already.

    Args:
        worker_class: a subclass of `eval.inference.worker.PolicyWorker` to run instead.

    Raises:
        RecipeError: the policy has no SAM 2 of its own and the settings name none; more GPUs than there are.
        EnvironmentMismatchError: the temporary folder's path is too long for Ray's sockets.
        WorkerError: a worker cannot be built; says why.
    """
    import ray

    from eval.inference.worker import PolicyWorker, cpu_environment

    environment = {**settings.backend.environment, **cpu_environment(settings.kv_cache_gib)} if device == "cpu" else {}
    if settings.tensor_parallel != 1:
        raise RecipeError(
            f"rollout.engine.tensor_parallel: {settings.tensor_parallel}, but evaluation runs one engine a GPU; "
            "add --set rollout.engine.tensor_parallel=1"
        )
    started = not ray.is_initialized()
    if started and (problem := socket_problem()):
        raise EnvironmentMismatchError(problem)
    if started:
        own = device == "cpu" and not joins_a_cluster()  # a running cluster says itself what it has
        limits: dict[str, Any] = {"num_cpus": 16, "_node_ip_address": "127.0.0.1"} if own else {}
        merge_with_the_jobs_variables()
        ray.init(
            address=ray_address(),
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={"env_vars": environment},
            **limits,
        )
    handles: list[RayHandle] = []
    pool: Any = None
    desk: DeskServer | None = None
    try:
        have = int(ray.cluster_resources().get("GPU", 0))
        if device == "cuda" and gpus > have:
            raise RecipeError(f"--gpus {gpus}, but Ray sees {have} on this machine")
        share = {"num_gpus": POLICY_SHARE} if device == "cuda" else {}
        actor = ray.remote(worker_class or PolicyWorker).options(max_concurrency=4 * settings.concurrency, **share)
        current = {"folder": str(folder)}
        if verifies(settings.environment):
            desk = DeskServer(lambda: pool, name=None)
        asked = () if desk is None else (desk.desk,)

        def make(slot: int) -> RayHandle:
            return RayHandle(actor.remote(current["folder"], settings, device, environment, *asked))

        handles += [make(i) for i in range(gpus if device == "cuda" else 1)]
        starts = [handle.start() for handle in handles]
        pool = settings.backend.start_pool(folder, settings, len(handles), POOL_SHARE if device == "cuda" else 0.0)
        for start in starts:
            _wait(start, settings.stall_seconds)
    except BaseException:
        for handle in handles:  # a Ray that others started lives on, and would keep them and their GPUs
            handle.kill()
        if desk is not None:
            desk.close()
        if pool is not None:
            pool.close()
        if started:
            ray.shutdown()
        raise
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    held = settings.concurrency + max(2, settings.concurrency // 4)  # a few wait there, so that no slot runs dry
    fleet = Fleet(make, handles, held, events.put, stall_seconds=settings.stall_seconds)
    scoring = settings.backend.scoring(settings.environment, settings.environment_settings)
    weights = settings.backend.decoder_weights
    return Cluster(fleet, events, pool, scoring, started, str(folder), current, weights, desk)


def use_policy(cluster: Cluster, folder: Path) -> None:
    """Switch a running cluster to another policy of the same architecture."""
    import ray

    if cluster.folder == str(folder):
        return
    cluster.current["folder"] = str(folder)
    ray.get([w.use_policy.remote(str(folder)) for w in cluster.workers])
    if decoder := cluster.decoder_weights(folder):
        cluster.pool.load_decoder(decoder)
    cluster.folder = str(folder)
