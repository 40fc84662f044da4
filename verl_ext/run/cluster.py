"""Does the Ray cluster that a run joins have what the recipe asks for, and do all of its machines see one folder?"""

from __future__ import annotations

import logging
import os
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollout.errors import RecipeError, WorkerError
from verl_ext.recipe.batch_checks import pool_workers

if TYPE_CHECKING:
    from verl_ext.recipe import Recipe

logger = logging.getLogger(__name__)

WAIT_ENV = "RAY_START_SECONDS"
LOOK_EVERY = 2.0


def start_seconds() -> float:
    """How long machines may take to join."""
    return float(os.environ.get(WAIT_ENV, "300"))


def check_cluster(recipe: Recipe, wait_seconds: float) -> None:
    """Wait until the machines and GPUs are there, then see that they share the run's folders. Ray is initialised.

    Raises:
        RecipeError: too few machines or GPUs have joined in time, or a machine does not see a folder.
    """
    import ray

    end = time.monotonic() + wait_seconds
    while problem := too_few(recipe, ray.nodes()):
        if time.monotonic() > end:
            raise RecipeError(f"{problem}" + (f"; waited {wait_seconds:.0f} s ({WAIT_ENV})" if wait_seconds else ""))
        logger.warning("waiting for machines: %s", problem)
        time.sleep(LOOK_EVERY)
    if recipe.trainer.nodes > 1:
        _check_folders(recipe)


def too_few(recipe: Recipe, nodes: list[dict[str, Any]]) -> str:
    """What the cluster lacks, with the keys; empty if nothing. ``nodes`` as Ray lists them."""
    t, pool = recipe.trainer, recipe.pool
    alive = [node for node in nodes if node["Alive"]]
    has = [float(node["Resources"].get("GPU", 0)) for node in alive]
    own = pool_workers(recipe) * pool.gpus_per_worker
    wanted, each = t.actor_processes + t.rollout_processes + own, t.actor_processes // t.nodes
    found = f"the Ray cluster has {len(alive)} machine(s) with {' + '.join(f'{n:g}' for n in has) or '0'} GPUs"
    if sum(has) < wanted:
        apart = f" + trainer.rollout_processes {t.rollout_processes}" if t.rollout_processes else ""
        of = f"trainer.actor_processes {t.actor_processes}{apart} + pool.workers x pool.gpus_per_worker {own:g}"
        return f"{found}, but {wanted:g} are needed: {of}"
    if sum(n >= each for n in has) < t.nodes:
        return f"{found}, but trainer.nodes {t.nodes} machines with {each} for the actor are needed"
    return ""


def _check_folders(recipe: Recipe) -> None:
    """A task on each machine looks for a file that was written just now."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    mark = Path(recipe.output_dir) / f".seen_{uuid.uuid4().hex}"
    mark.touch()
    paths = [str(mark), recipe.policy.path, *(source.root for source in (*recipe.data, *recipe.val))]
    look = ray.remote(num_cpus=0)(missing)
    try:
        looking = {}
        for node in ray.nodes():
            if node["Alive"]:
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                looking[node["NodeManagerHostname"]] = look.options(scheduling_strategy=there).remote(paths)
        for host, answer in looking.items():
            if lacks := ray.get(answer, timeout=120):
                raise RecipeError(shared_problem(host, lacks, mark))
    except ray.exceptions.RayError as e:
        raise WorkerError(f"a machine of the Ray cluster did not say what it sees: {e}") from e
    finally:
        mark.unlink(missing_ok=True)


def missing(paths: list[str], seconds: float = 30.0) -> list[str]:
    """Which of ``paths`` this machine does not see; a shared disk shows a new file with a delay."""
    end = time.monotonic() + seconds
    while (lacks := [path for path in paths if not Path(path).exists()]) and time.monotonic() < end:
        time.sleep(1)
    return lacks


def shared_problem(host: str, lacks: list[str], mark: Path) -> str:
    """The sentence for a machine that does not see what another does."""
    where = [f"output_dir {mark.parent}" if path == str(mark) else path for path in lacks]
    return f"{host} does not see {', '.join(where)}: put it on a file system that all machines share"
