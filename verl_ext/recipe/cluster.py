"""Where ``videoseg launch`` runs a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

ClusterKind = Literal["local", "ray_job", "slurm", "kuberay"]


@dataclass
class ClusterRecipe:
    """What ``videoseg launch`` asks a cluster for. ``videoseg train`` runs where it is started and reads none of it."""

    kind: ClusterKind = "local"
    """``local``: in the background of this machine. ``ray_job``: Ray's job API. ``slurm``: sbatch. ``kuberay``: a
    RayJob by kubectl."""
    nodes: int | None = None
    """Machines; null is ``trainer.nodes``, and another number than that is refused."""
    gpus_per_node: int | None = None
    """GPUs of one machine; null is ``trainer.gpus_per_node``, and another number than that is refused."""
    cpus_per_node: int | None = None
    """CPU cores of one machine; null takes whole machines (slurm) or sets no limit (kuberay)."""
    memory_gib: float | None = None
    """Host memory of one machine; null takes all of it (slurm) or sets no limit (kuberay)."""
    time: str | None = None
    """At most so long, as ``"24:00:00"`` or ``"2-00:00:00"`` (in quotes: YAML takes it for a number); null leaves it to
    the cluster."""
    grace_seconds: int = 300
    """Before its time is over, and after it is asked to stop, a run has so long to end its step and save."""
    requeue: bool = True
    """Go on by itself, from the newest checkpoint: after its time is over (slurm), after a machine has failed (slurm,
    and three times kuberay)."""
    partition: str | None = None
    """Slurm's partition; null is the cluster's default."""
    account: str | None = None
    """Slurm's account; null is yours."""
    options: list[str] = field(default_factory=list)
    """Further options of sbatch, such as ``--qos=high``."""
    address: str | None = None
    """Of Ray's dashboard, as ``http://head:8265``; null is RAY_API_SERVER_ADDRESS or this machine's."""
    namespace: str = "default"
    """Kubernetes' namespace."""
    image: str | None = None
    """Container image with this project in it (kuberay: needed; slurm: by the pyxis plugin)."""
    mounts: list[str] = field(default_factory=list)
    """What is seen in the image, as ``SOURCE:FOLDER`` or ``SOURCE:FOLDER:ro``. A source that begins with / is a folder
    of the machines; another is the name of a PersistentVolumeClaim (kuberay)."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables of all processes, as NCCL_SOCKET_IFNAME."""
    folder: str | None = None
    """The project's folder on the machines, in which the run works: relative paths of the recipe start there. Null is
    the folder of the command (in an image its own)."""
