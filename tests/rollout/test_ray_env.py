"""A Ray of our own unless one is named, and sockets that fit where they would lie."""

from __future__ import annotations

import os

import pytest

from rollout.ray_env import (
    MERGE_ENV,
    RAY_TAIL,
    SOCKET_BYTES,
    VLLM_TAIL,
    joins_a_cluster,
    merge_with_the_jobs_variables,
    ray_address,
    socket_problem,
)

NAMES = ("RAY_ADDRESS", "RAY_TMPDIR", "TMPDIR", "VLLM_RPC_BASE_PATH")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("value", "address"),
    [
        (None, "local"),
        ("", "local"),
        ("local", "local"),
        ("auto", None),
        ("head:6379", None),
        ("ray://head:10001", None),
    ],
)
def test_only_a_named_cluster_is_joined(
    monkeypatch: pytest.MonkeyPatch, value: str | None, address: str | None
) -> None:
    if value is not None:
        monkeypatch.setenv("RAY_ADDRESS", value)
    assert ray_address() == address
    assert joins_a_cluster() is (address is None)


def test_the_last_byte_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert socket_problem() is None
    most = SOCKET_BYTES - len(RAY_TAIL)
    monkeypatch.setenv("TMPDIR", "/" + "x" * (most - 1))
    assert socket_problem() is None
    monkeypatch.setenv("TMPDIR", "/" + "x" * most)
    said = socket_problem()
    assert said is not None and said.startswith("TMPDIR: /xx")
    assert f"has {most + 1} bytes" in said and said.endswith("export TMPDIR=/tmp or another short folder")


def test_bytes_count_not_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/" + "é" * 30)
    assert socket_problem() is not None


def test_rays_own_variable_wins_and_vllm_has_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/" + "x" * 50)
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    assert socket_problem() is None
    monkeypatch.setenv("RAY_TMPDIR", "/" + "x" * 50)
    assert (socket_problem() or "").startswith("RAY_TMPDIR: ")
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")  # that cluster's sockets lie elsewhere
    assert socket_problem() is None
    monkeypatch.setenv("TMPDIR", "/" + "x" * (SOCKET_BYTES - len(VLLM_TAIL)))
    assert "vLLM's sockets" in (socket_problem() or "")
    monkeypatch.setenv("VLLM_RPC_BASE_PATH", "/tmp")
    assert socket_problem() is None


def test_the_tails_are_what_the_libraries_make(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray._common.utils as ray_utils
    from ray._private.node import Node
    from vllm.utils.network_utils import get_open_zmq_ipc_path

    monkeypatch.setenv("TMPDIR", "/short")
    assert ray_utils.get_default_ray_temp_dir() == "/short/ray"
    assert "session_{date_str}_{os.getpid()}" in source_of(Node)
    assert "plasma_store" in source_of(Node) and '"sockets"' in source_of(Node)
    assert len(os.path.basename(get_open_zmq_ipc_path())) + 1 == len(VLLM_TAIL)


def source_of(kind: type) -> str:
    import inspect

    return inspect.getsource(kind)


def test_a_job_that_names_a_variable_of_ours_is_merged_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own merge of a job's environment with a driver's, under the switch that we set."""
    from ray.runtime_env.runtime_env import _merge_runtime_env

    monkeypatch.delenv(MERGE_ENV, raising=False)
    job, ours = {"env_vars": {"A": "1", "B": "1"}, "working_dir": "x"}, {"env_vars": {"A": "2"}}
    assert _merge_runtime_env(job, ours, override=os.environ.get(MERGE_ENV) == "1") is None
    merge_with_the_jobs_variables()
    merged = _merge_runtime_env(job, ours, override=os.environ[MERGE_ENV] == "1")
    assert merged == {"env_vars": {"A": "2", "B": "1"}, "working_dir": "x"}
    monkeypatch.setenv(MERGE_ENV, "0")  # whoever sets it himself means it
    merge_with_the_jobs_variables()
    assert os.environ[MERGE_ENV] == "0"
