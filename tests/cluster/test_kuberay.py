"""The RayJob manifest against Kubernetes' own types (PyPI's ``kubernetes``), and against KubeRay's CRD if it is given.

The CRD comes in no package of PyPI or npm. ``VIDEOSEG_RAYJOB_CRD=ray.io_rayjobs.yaml`` (of KubeRay's
``ray-operator/config/crd/bases``) has every field of the RayJob checked, unknown ones included; without it only pod
templates and the ConfigMap are. No KubeRay operator is run here.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.verl_ext.launch.snapshots import IN_AN_IMAGE, RECIPES, TWO, job_of, path_of, recipe_of
from verl_ext.launch.jobs import render

CASES = [(path, []) for path in RECIPES]
CASES += [
    (path_of("grpo_two_machines"), [*TWO["grpo_two_machines"][1], *more])
    for more in (
        ["cluster.cpus_per_node=16", "cluster.memory_gib=512", 'cluster.time="12:00:00"'],
        ["cluster.mounts=[runs:/runs, runs:/again:ro, /d:/d]", "cluster.environment={A: 'b'}", "cluster.requeue=false"],
        ["cluster.folder=/project"],
    )
]


def documents(path: Path, overrides: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(ConfigMap, RayJob)"""
    manifest = render(job_of(recipe_of(path, "kuberay", *IN_AN_IMAGE, *overrides)))["rayjob.yaml"]
    config, job = yaml.safe_load_all(manifest)
    return config, job


def closed(schema: Any) -> Any:
    """The schema with unknown keys forbidden, as kubectl's strict validation has it."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    out = {key: closed(value) for key, value in schema.items()}
    if schema.get("type") == "object" and "properties" in schema:
        out.setdefault("additionalProperties", False)
    return out


@cache
def crd(file: str) -> dict[str, Any]:
    versions = yaml.safe_load(Path(file).read_text())["spec"]["versions"]
    (schema,) = (v["schema"]["openAPIV3Schema"] for v in versions if v["name"] == "v1")
    return closed(schema) | {"properties": closed(schema["properties"]) | {"metadata": {"type": "object"}}}


@pytest.mark.parametrize(("path", "overrides"), CASES)
def test_pods_and_config_are_kubernetes_types(path: Path, overrides: list[str]) -> None:
    """What the client's typed models give back equals what went in: no field is unknown, and none is missing."""
    client = pytest.importorskip("kubernetes.client").ApiClient()
    config, job = documents(path, overrides)
    cluster = job["spec"]["rayClusterSpec"]
    pods = [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    assert len(pods) == min(2, recipe_of(path, "kuberay", *overrides).trainer.nodes)
    for kind, value in [("V1ConfigMap", config), *(("V1PodTemplateSpec", pod) for pod in pods)]:
        typed = client._ApiClient__deserialize(value, kind)
        assert client.sanitize_for_serialization(typed) == value


@pytest.mark.parametrize(("path", "overrides"), CASES)
def test_the_job_is_what_the_crd_describes(path: Path, overrides: list[str]) -> None:
    file = os.environ.get("VIDEOSEG_RAYJOB_CRD")
    if not file:
        pytest.skip("VIDEOSEG_RAYJOB_CRD names no file: RayJob's own fields are not checked")
    from jsonschema import Draft202012Validator

    schema = crd(file)
    _, job = documents(path, overrides)
    Draft202012Validator(schema).validate(job)
    broken = {**job, "spec": {**job["spec"], "entrypiont": "x"}}
    assert not Draft202012Validator(schema).is_valid(broken)
