"""Evaluation starts a Ray of its own, whoever else has one on the machine, unless ``RAY_ADDRESS`` names one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval.inference.cluster import start_cluster
from rewards.pool import SegmenterPool
from rewards.segmenter import SegmenterConfig
from rollout.errors import EnvironmentMismatchError
from verl_ext.evaluation.settings import inference_settings
from verl_ext.recipe import Recipe


class Asked(BaseException):
    """Ray was asked to start."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    import ray

    calls: list[dict[str, Any]] = []

    def init(**settings: Any) -> None:
        calls.append(settings)
        raise Asked

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    for name in ("RAY_ADDRESS", "RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    return calls


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_evaluation_asks_for_its_own(
    asked: list[dict[str, Any]], tiny_recipe: Callable[..., Recipe], tmp_path: Path, device: str
) -> None:
    with pytest.raises(Asked):
        start_cluster(tmp_path, inference_settings(tiny_recipe("grpo")), device)
    assert asked[0]["address"] == "local"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_named_cluster_is_joined_as_it_is(
    asked: list[dict[str, Any]],
    tiny_recipe: Callable[..., Recipe],
    tmp_path: Path,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    with pytest.raises(Asked):
        start_cluster(tmp_path, inference_settings(tiny_recipe("grpo")), device)
    assert asked[0]["address"] is None
    assert not {"num_cpus", "num_gpus", "_node_ip_address"} & asked[0].keys()  # Ray refuses them there


def test_a_pool_without_ray_asks_for_its_own(asked: list[dict[str, Any]]) -> None:
    with pytest.raises(Asked):
        SegmenterPool(SegmenterConfig())
    assert asked[0]["address"] == "local"


def test_a_temporary_folder_that_is_too_long_is_named_before_ray_starts(
    asked: list[dict[str, Any]], tiny_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", "/" + "long" * 20)
    with pytest.raises(EnvironmentMismatchError, match=r"TMPDIR: /long.*export TMPDIR=/tmp"):
        start_cluster(tmp_path, inference_settings(tiny_recipe("grpo")), "cpu")
    assert not asked
