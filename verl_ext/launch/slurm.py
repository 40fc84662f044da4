"""A batch job of Slurm: a script that starts Ray, or torchrun, on all machines of its allocation."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from rollout.errors import WorkerError
from verl_ext.launch.scheduler import HELD, Job, Scheduler, State, Submitted, lines_of, tool
from verl_ext.recipe.cluster_checks import mount_parts
from verl_ext.run.checkpoints import CHECKPOINTS, TRACKER
from verl_ext.run.stop import ask_to_stop

SCRIPT, LOG = "job.sbatch", "slurm-{id}.log"
REMEDY = "run this on a machine that submits to Slurm (a login node)"
UNKNOWN = "Invalid job id"
WAITING, RUNNING = (
    "PENDING",
    ("RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "PENDING", "REQUEUED", "REQUEUE_HOLD"),
)


class Slurm:
    """See `Scheduler`."""

    def render(self, job: Job) -> dict[str, str]:
        templates = Environment(
            loader=PackageLoader("verl_ext.launch"),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        templates.filters["sh"] = lambda value: shlex.quote(str(value))
        r = job.recipe
        script = templates.get_template("job.sbatch.j2").render(
            job=job,
            cluster=r.cluster,
            ray=r.stage == "grpo",
            log=job.folder / LOG.format(id="%j"),
            train=shlex.join(job.train()),
            ray_gpus=job.gpus or r.processes_per_node,
            shared=shared_paths(job),
            tracker=Path(r.output_dir) / CHECKPOINTS / TRACKER,
            held=job.folder / HELD,
            container=_container(job),
        )
        return {SCRIPT: script}

    def command(self, job: Job) -> str:
        return shlex.join(["sbatch", str(job.folder / SCRIPT)])

    def submit(self, job: Job) -> Submitted:
        said = tool(["sbatch", "--parsable", str(job.folder / SCRIPT)], REMEDY).strip()
        return Submitted("slurm", said.partition(";")[0], job.recipe.output_dir, self.command(job))

    def state(self, job: Submitted, folder: Path) -> State:
        found = _queued(job.id) or _accounted(job.id)
        return State(found.split(" ")[0] in RUNNING, found.removesuffix(" None") or "not in the queue any more")

    def logs(self, job: Submitted, folder: Path) -> Iterator[str]:
        return lines_of(folder / LOG.format(id=job.id))

    def stop(self, job: Submitted, folder: Path, now: bool) -> str:
        state = self.state(job, folder)
        if not state.active:
            return "it has ended already"
        begun = not state.words.startswith(WAITING) and (Path(job.output_dir) / "train.log").is_file()
        if now or not begun:
            tool(["scancel", job.id], REMEDY)
            return "cancelled" if begun else "cancelled before it began"
        ask_to_stop(job.output_dir)
        return "it finishes its step, saves and ends, and is not queued again"


def _queued(job_id: str) -> str:
    """State and reason; empty for a job that is long over, which to squeue is an error."""
    try:
        return tool(["squeue", "--noheader", "--format=%T %r", "--jobs", job_id], REMEDY).strip()
    except WorkerError as e:
        if UNKNOWN in str(e):
            return ""
        raise  # a controller that does not answer has not ended the job


def _accounted(job_id: str) -> str:
    """State and exit code; empty where nothing is accounted."""
    asked = ["sacct", "--noheader", "--parsable2", "--allocations", "--format=State,ExitCode", "--jobs", job_id]
    try:
        return tool(asked, REMEDY).strip().replace("|", ", exit code ")
    except WorkerError:
        return ""


def shared_paths(job: Job) -> list[str]:
    """What every machine has to see at the same place."""
    r = job.recipe
    pool = [r.pool.checkpoint] if r.pool.checkpoint and r.stage == "grpo" else []
    found = [r.policy.path, *pool, *(source.root for source in (*r.data, *r.val))]
    return list(dict.fromkeys(found))


def _container(job: Job) -> str:
    """srun's options for the pyxis plugin; empty without an image.

    The job's own folder is seen, and /tmp: each step has a container of its own, and Ray's sockets are between them.
    """
    c = job.recipe.cluster
    if c.image is None:
        return ""
    parts = [p for m in c.mounts if (p := mount_parts(m)) is not None]
    own = [f"{job.folder}:{job.folder}", "/tmp:/tmp"]
    mounts = [f"{source}:{folder}{':ro' if read_only else ''}" for source, folder, read_only in parts] + own
    workdir = [f"--container-workdir={job.project}"] if job.project else []
    return shlex.join([f"--container-image={c.image}", f"--container-mounts={','.join(mounts)}", *workdir])


SCHEDULER: Scheduler = Slurm()
