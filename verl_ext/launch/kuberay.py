"""A `RayJob` of KubeRay: the operator makes a Ray cluster for the run and takes it away afterwards."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from verl_ext.launch.ray_job import GRACE_ENV
from verl_ext.launch.scheduler import LEAST_CPUS, Job, Scheduler, State, Submitted, tool
from verl_ext.recipe.cluster_checks import mount_parts, seconds_of

FILE = "rayjob.yaml"
REMEDY = "install kubectl and choose the cluster with `kubectl config use-context`"
RECIPE_FOLDER = "/etc/videoseg"
ENDED = ("SUCCEEDED", "FAILED", "STOPPED", "Complete", "Failed")
STARTS_AGAIN = 3
"""How often the cluster is made anew after a failure; each goes on from the newest checkpoint."""
KEEP_SECONDS = 600
"""After the end, so that its logs can be read."""


class KubeRay:
    """See `Scheduler`."""

    def render(self, job: Job) -> dict[str, str]:
        return {FILE: yaml.safe_dump_all([_config_map(job), _ray_job(job)], sort_keys=False, width=120)}

    def command(self, job: Job) -> str:
        return shlex.join(["kubectl", "apply", "--filename", str(job.folder / FILE)])

    def submit(self, job: Job) -> Submitted:
        namespace = job.recipe.cluster.namespace
        # a RayJob that is over does not begin again by being applied once more
        tool(["kubectl", "delete", "rayjob", job.name, "--namespace", namespace, "--ignore-not-found"], REMEDY)
        tool(shlex.split(self.command(job)), REMEDY)
        return Submitted("kuberay", job.name, job.recipe.output_dir, self.command(job), namespace)

    def state(self, job: Submitted, folder: Path) -> State:
        found = tool(["kubectl", "get", "rayjob", job.id, *_in(job), "--ignore-not-found", "--output=json"], REMEDY)
        if not found.strip():
            return State(False, "not there any more")
        status = json.loads(found).get("status", {})
        job_status, deployment = status.get("jobStatus") or "PENDING", status.get("jobDeploymentStatus") or "New"
        words = f"{job_status}, cluster {deployment}" + (f": {m}" if (m := status.get("message")) else "")
        return State(job_status not in ENDED and deployment not in ENDED, words)

    def logs(self, job: Submitted, folder: Path) -> Iterator[str]:
        yield from tool(["kubectl", "logs", f"job/{job.id}", *_in(job)], REMEDY).splitlines()

    def stop(self, job: Submitted, folder: Path, now: bool) -> str:
        # not by the stop file alone: a job whose command ends early has failed for KubeRay, which starts it again
        pods = _pods(job) if now else []
        tool(["kubectl", "delete", "rayjob", job.id, *_in(job), "--ignore-not-found", "--wait=false"], REMEDY)
        if now:
            tool(["kubectl", "delete", *pods, *_in(job), "--grace-period=1", "--wait=false"], REMEDY) if pods else None
            return "deleted; what came after the last checkpoint is lost"
        return (
            "deleted: its pods ask the run to finish its step and save, and wait for it (cluster.grace_seconds at most)"
        )


def _in(job: Submitted) -> list[str]:
    return ["--namespace", job.address]


def _pods(job: Submitted) -> list[str]:
    """``pod/NAME`` of the job's cluster."""
    found = tool(["kubectl", "get", "rayjob", job.id, *_in(job), "--ignore-not-found", "--output=json"], REMEDY)
    cluster = json.loads(found or "{}").get("status", {}).get("rayClusterName")
    chosen = [f"--selector=ray.io/cluster={cluster}", "--output=name"]
    return tool(["kubectl", "get", "pods", *_in(job), *chosen], REMEDY).split() if cluster else []


class _Block(str):
    """Text that is written as a block, to be read."""


def _block(dumper: yaml.SafeDumper, text: _Block) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|")


yaml.SafeDumper.add_representer(_Block, _block)


def _config_map(job: Job) -> dict[str, Any]:
    recipe = _Block(OmegaConf.to_yaml(OmegaConf.create(asdict(job.recipe))))
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(job, f"{job.name}-recipe"),
        "data": {"recipe.yaml": recipe},
    }


def _ray_job(job: Job) -> dict[str, Any]:
    c = job.recipe.cluster
    seconds = seconds_of(c.time) if c.time else None
    entry = shlex.join(job.train(f"{RECIPE_FOLDER}/recipe.yaml"))
    if job.project:
        entry = f"bash -c {shlex.quote(f'cd {shlex.quote(job.project)} && exec {entry}')}"
    workers = job.nodes - 1
    group = {"groupName": "workers", "replicas": workers, "minReplicas": workers, "maxReplicas": workers}
    logical = _logical(job)
    cluster = {
        "headGroupSpec": {"rayStartParams": {"dashboard-host": "0.0.0.0", **logical}, "template": _pod(job)},
        "workerGroupSpecs": [group | {"rayStartParams": logical, "template": _pod(job)}] if workers else [],
    }
    spec = {
        "entrypoint": entry,
        "runtimeEnvYAML": _Block(yaml.safe_dump({"env_vars": {**c.environment, GRACE_ENV: str(c.grace_seconds)}})),
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": KEEP_SECONDS,
        "backoffLimit": STARTS_AGAIN if c.requeue else 0,
        "activeDeadlineSeconds": seconds,
        "rayClusterSpec": {"rayVersion": job.ray_version, **cluster},
    }
    spec = {key: value for key, value in spec.items() if value is not None}
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": _metadata(job, job.name), "spec": spec}


def _metadata(job: Job, name: str) -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": "videoseg-rl", "app.kubernetes.io/instance": job.name}
    return {"name": name, "namespace": job.recipe.cluster.namespace, "labels": labels}


def _pod(job: Job) -> dict[str, Any]:
    """One machine, head and workers alike. A pod that must go asks the run to save first, and waits for it."""
    c = job.recipe.cluster
    volumes, seen = _volumes(job)
    asks = ["python", "-m", "verl_ext.cli.main", "stop", job.recipe.output_dir, "--wait", str(c.grace_seconds)]
    container = {
        "name": "ray",
        "image": c.image,
        "env": [{"name": name, "value": value} for name, value in c.environment.items()],
        "lifecycle": {"preStop": {"exec": {"command": asks}}},
        "resources": {"limits": _limits(job), "requests": _limits(job)},
        "volumeMounts": seen,
    }
    return {
        "spec": {
            "terminationGracePeriodSeconds": c.grace_seconds + 30,
            "restartPolicy": "Never",
            "containers": [container],
            "volumes": volumes,
        }
    }


def _logical(job: Job) -> dict[str, str]:
    """What a machine tells Ray that it has, where that is not what its pod has."""
    processes = str(job.recipe.processes_per_node)  # of which each asks Ray for a GPU, on a CPU too
    cores = job.recipe.cluster.cpus_per_node or LEAST_CPUS
    cpus = {"num-cpus": str(max(LEAST_CPUS, cores))} if not job.gpus or cores < LEAST_CPUS else {}
    return cpus if job.gpus else cpus | {"num-gpus": processes}


def _limits(job: Job) -> dict[str, Any]:
    c = job.recipe.cluster
    asked: Mapping[str, Any] = {
        "cpu": str(c.cpus_per_node) if c.cpus_per_node else None,
        "memory": f"{c.memory_gib:g}Gi" if c.memory_gib else None,
        "nvidia.com/gpu": str(job.gpus) if job.gpus else None,
    }
    return {key: value for key, value in asked.items() if value is not None}


def _volumes(job: Job) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(volumes, volumeMounts): the recipe, shared memory for Ray's objects, and what the recipe names."""
    volumes: list[dict[str, Any]] = [
        {"name": "recipe", "configMap": {"name": f"{job.name}-recipe"}},
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
    ]
    seen: list[dict[str, Any]] = [
        {"name": "recipe", "mountPath": RECIPE_FOLDER},
        {"name": "shm", "mountPath": "/dev/shm"},
    ]
    names: dict[str, str] = {}
    for mount in job.recipe.cluster.mounts:
        source, folder, read_only = mount_parts(mount) or ("", "", False)
        if source not in names:  # a claim that is seen at two places is one volume
            names[source] = f"mount-{len(names)}"
            kind = {"hostPath": {"path": source}} if source.startswith("/") else _claim(source)
            volumes.append({"name": names[source], **kind})
        seen.append({"name": names[source], "mountPath": folder, "readOnly": read_only})
    return volumes, seen


def _claim(name: str) -> dict[str, Any]:
    return {"persistentVolumeClaim": {"claimName": name}}


SCHEDULER: Scheduler = KubeRay()
