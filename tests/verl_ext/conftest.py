"""The active recipe, a process group of one, and training workers with the real engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rollout.types import Sample
from tests.verl_ext.dialogues import InProcessPool
from verl_ext.recipe import Recipe, save_resolved
from verl_ext.recipe.context import RECIPE_ENV
from verl_ext.run.sources import load_samples


@pytest.fixture
def activate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Recipe], Recipe]:
    """Make a recipe the one that ``active_recipe()`` returns."""
    count = 0

    def use(recipe: Recipe) -> Recipe:
        nonlocal count
        count += 1
        path = tmp_path / f"resolved{count}.yaml"
        save_resolved(recipe, path)
        monkeypatch.setenv(RECIPE_ENV, str(path))
        return recipe

    return use


@pytest.fixture(scope="session")
def process_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    import torch

    store = torch.distributed.FileStore(str(tmp_path_factory.mktemp("gloo") / "store"), 1)
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=store)
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture
def build_worker(
    activate: Callable[[Recipe], Recipe], process_group: None, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """``build_worker(recipe)``: verl's training worker around our engine, as supervised training builds it."""
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in alone.items():
        monkeypatch.setenv(name, value)

    def build(recipe: Recipe, forward_only: bool = False) -> Any:
        from tests.verl_ext.engines import training_worker

        return training_worker(activate(recipe), forward_only)

    return build


@pytest.fixture
def pool(tiny_policy: Path) -> InProcessPool:
    """The tiny policy's segmenter behind the pool's interface."""
    from verl_ext.policy.checkpoint import load_policy

    return InProcessPool(load_policy(tiny_policy).grounding_encoder)


@pytest.fixture(scope="session")
def samples(tiny_recipe: Callable[..., Recipe]) -> list[Sample]:
    """Expressions with a target that is visible somewhere in its clip."""
    return [s for s in load_samples(tiny_recipe("grpo")) if s.masklets is not None and s.masklets.areas().any()]


@pytest.fixture(scope="session")
def sample(samples: list[Sample]) -> Sample:
    return samples[0]
