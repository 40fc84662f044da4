"""A job of a Ray cluster that is there, by Ray's job API."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rollout.errors import RecipeError, WorkerError
from verl_ext.launch.scheduler import Job, Scheduler, State, Submitted
from verl_ext.run.stop import ask_to_stop

FILE = "ray_job.json"
ADDRESS_ENV = "RAY_API_SERVER_ADDRESS"
HERE = "http://127.0.0.1:8265"
GRACE_ENV = "RAY_JOB_STOP_WAIT_TIME_S"
"""Ray reads it from the job's own runtime environment: how long after TERM it sends KILL (3 s unless told)."""
RUNNING = ("PENDING", "RUNNING")


class RayJob:
    """See `Scheduler`."""

    def render(self, job: Job) -> dict[str, str]:
        c = job.recipe.cluster
        # no working_dir: Ray would unpack a copy of it into its cache, and the run would live and end there
        entry = f"cd {shlex.quote(job.project)} && exec {shlex.join(job.train())}"
        request = {
            "entrypoint": entry,
            "runtime_env": {"env_vars": {**c.environment, GRACE_ENV: str(c.grace_seconds)}},
            "metadata": {"name": job.name, "output_dir": job.recipe.output_dir},
        }
        return {FILE: json.dumps(request, indent=1) + "\n"}

    def command(self, job: Job) -> str:
        request = json.loads(self.render(job)[FILE])
        where = ["--address", address_of(job.recipe.cluster.address), "--no-wait"]
        env = ["--runtime-env-json", json.dumps(request["runtime_env"])]
        return shlex.join(["ray", "job", "submit", *where, *env, "--", "bash", "-c", request["entrypoint"]])

    def submit(self, job: Job) -> Submitted:
        request = json.loads((job.folder / FILE).read_text(encoding="utf-8"))
        address = address_of(job.recipe.cluster.address)
        found = _client(address).submit_job(**request)
        return Submitted("ray_job", found, job.recipe.output_dir, self.command(job), address)

    def state(self, job: Submitted, folder: Path) -> State:
        try:
            status = str(_client(job.address).get_job_status(job.id).value)
        except RuntimeError as e:
            return State(False, f"unknown to Ray at {job.address}: {e}")
        return State(status in RUNNING, status)

    def logs(self, job: Submitted, folder: Path) -> Iterator[str]:
        yield from _client(job.address).get_job_logs(job.id).splitlines()

    def stop(self, job: Submitted, folder: Path, now: bool) -> str:
        if not self.state(job, folder).active:
            return "it has ended already"
        if now:
            _client(job.address).stop_job(job.id)
            return (
                "Ray sends TERM: it finishes its step and saves if the grace that it was given lasts, else KILL follows"
            )
        try:
            ask_to_stop(job.output_dir)
        except RecipeError:  # it has not begun
            _client(job.address).stop_job(job.id)
            return "stopped before it began"
        return "it finishes its step, saves and ends"


def address_of(given: str | None) -> str:
    """Of the dashboard."""
    return given or os.environ.get(ADDRESS_ENV) or HERE


def _client(address: str) -> Any:
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError) as e:
        raise WorkerError(
            f"cluster.address: no Ray answers at {address}: {e}; give the dashboard's address as cluster.address or in "
            f"{ADDRESS_ENV}"
        ) from e


SCHEDULER: Scheduler = RayJob()
