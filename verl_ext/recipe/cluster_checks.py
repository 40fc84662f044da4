"""Does the ``cluster`` block say what its kind of cluster needs, and nothing that contradicts the trainer's sizes?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from verl_ext.recipe.cluster import ClusterRecipe
from verl_ext.recipe.rules import rule

if TYPE_CHECKING:
    from verl_ext.recipe.schema import Recipe

READ_BY = {
    "partition": ("slurm",),
    "account": ("slurm",),
    "options": ("slurm",),
    "cpus_per_node": ("slurm", "kuberay"),
    "memory_gib": ("slurm", "kuberay"),
    "time": ("slurm", "kuberay"),
    "image": ("slurm", "kuberay"),
    "mounts": ("slurm", "kuberay"),
    "address": ("ray_job",),
    "namespace": ("kuberay",),
}
"""Keys that not every kind of cluster has a place for."""
SET_BY_LAUNCH = ("RAY_ADDRESS", "RAY_JOB_STOP_WAIT_TIME_S", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK")
SBATCH_KEYS = {
    "nodes": "trainer.nodes",
    "N": "trainer.nodes",
    "gpus-per-node": "trainer.gpus_per_node",
    "time": "cluster.time",
    "t": "cluster.time",
    "mem": "cluster.memory_gib",
    "cpus-per-task": "cluster.cpus_per_node",
    "c": "cluster.cpus_per_node",
    "partition": "cluster.partition",
    "p": "cluster.partition",
    "account": "cluster.account",
    "A": "cluster.account",
    "signal": "cluster.grace_seconds",
    "requeue": "cluster.requeue",
    "no-requeue": "cluster.requeue",
}
"""sbatch's options that a key of the recipe sets: given once more, they would win in silence."""
_OPTION = re.compile(r"--([a-z-]+)(?:[= ].*)?|-([A-Za-z]).*")
_TIME = re.compile(r"(?:(\d+)-)?(\d{1,2}):([0-5]\d):([0-5]\d)")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def seconds_of(time: str) -> int | None:
    """``"2-00:00:00"`` (days, hours, minutes, seconds) or ``"24:00:00"``; None if it is neither."""
    found = _TIME.fullmatch(time.strip())
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def mount_parts(mount: str) -> tuple[str, str, bool] | None:
    """(source, folder in the image, read-only) of a mount; None if it is not written as one."""
    source, _, rest = mount.partition(":")
    folder, _, mode = rest.partition(":")
    well_formed = bool(source) and folder.startswith("/") and mode in ("", "ro")
    return (source, folder, mode == "ro") if well_formed else None


@rule
def sizes_agree(r: Recipe) -> Iterator[str]:
    for name in ("nodes", "gpus_per_node"):
        asked, used = getattr(r.cluster, name), getattr(r.trainer, name)
        if asked is not None and asked != used:
            what = "machines" if name == "nodes" else "GPUs a machine"
            yield (
                f"cluster.{name}: {asked} {what} are asked for, but the run uses trainer.{name} {used}; make them "
                f"equal, or leave cluster.{name} out"
            )


@rule
def kind_reads_its_keys(r: Recipe) -> Iterator[str]:
    unset = ClusterRecipe()
    for f in fields(ClusterRecipe):
        kinds = READ_BY.get(f.name, ())
        value = getattr(r.cluster, f.name)
        if kinds and r.cluster.kind not in kinds and value != getattr(unset, f.name):
            yield (
                f"cluster.{f.name}: {value!r} with cluster.kind: {r.cluster.kind}, which has no place for it "
                f"({' and '.join(kinds)} {'have' if len(kinds) > 1 else 'has'}); leave it out"
            )


@rule
def time_is_a_time(r: Recipe) -> Iterator[str]:
    c = r.cluster
    if c.time is None:
        return
    seconds = seconds_of(c.time)
    if seconds is None:
        yield f"cluster.time: {c.time!r}; expected hours:minutes:seconds or days-hours:minutes:seconds, as 24:00:00"
    elif seconds <= c.grace_seconds:
        yield (
            f"cluster.time: {c.time} = {seconds} s, of which cluster.grace_seconds {c.grace_seconds} are for saving; "
            "no time is left to train, raise time or lower grace_seconds"
        )


@rule
def environment_has_names(r: Recipe) -> Iterator[str]:
    for name in r.cluster.environment:
        if not _VARIABLE.fullmatch(name):
            yield f"cluster.environment: {name!r} is no name of a variable; letters, digits and _ make one"
        elif name in SET_BY_LAUNCH:
            yield f"cluster.environment.{name}: is set by videoseg launch itself; leave it out"


@rule
def options_are_of_sbatch(r: Recipe) -> Iterator[str]:
    for i, option in enumerate(r.cluster.options):
        found = _OPTION.fullmatch(option)
        if found is None:
            yield f"cluster.options[{i}]: {option!r} is no option of sbatch; write it as --qos=high"
        elif key := SBATCH_KEYS.get(found[1] or found[2]):
            yield f"cluster.options[{i}]: {option!r} is what {key} says; set that instead"


@rule
def mounts_have_an_image(r: Recipe) -> Iterator[str]:
    c = r.cluster
    for i, mount in enumerate(c.mounts):
        parts = mount_parts(mount)
        if parts is None:
            yield f"cluster.mounts[{i}]: {mount!r}; expected SOURCE:/FOLDER or SOURCE:/FOLDER:ro"
        elif c.kind == "slurm" and not parts[0].startswith("/"):
            yield f"cluster.mounts[{i}]: {mount!r} with kind: slurm, where the source is a folder of the machines: /..."
    if c.kind == "slurm" and c.mounts and c.image is None:
        yield f"cluster.mounts: {c.mounts} without cluster.image; without an image the machines' folders are seen as is"


@rule
def kubernetes_has_what_it_needs(r: Recipe) -> Iterator[str]:
    c = r.cluster
    if c.kind != "kuberay":
        return
    if c.image is None:
        yield "cluster.image: null with kind: kuberay; name an image that holds this project"
    parts = [p for m in c.mounts if (p := mount_parts(m)) is not None]
    out = PurePosixPath(r.output_dir)
    kept = [folder for _, folder, read_only in parts if not read_only and out.is_relative_to(folder)]
    if not out.is_absolute() or not kept:
        where = ", ".join(folder for _, folder, ro in parts if not ro) or "none"
        yield (
            f"output_dir: {r.output_dir} with kind: kuberay is not below a folder of cluster.mounts that can be "
            f"written (there: {where}), so that nothing would be left of the run; mount one, as runs:/runs, and set "
            "output_dir=/runs/..."
        )


@rule
def ray_starts_no_torchrun(r: Recipe) -> Iterator[str]:
    if r.stage == "sft" and r.cluster.kind in ("ray_job", "kuberay") and r.trainer.nodes > 1:
        yield (
            f"cluster.kind: {r.cluster.kind} with stage: sft over trainer.nodes {r.trainer.nodes}: torchrun starts a "
            "supervised run on every machine, which Ray does not do; use kind: slurm, or one machine"
        )
