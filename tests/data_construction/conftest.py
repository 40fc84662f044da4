"""One small synthetic data set for all tests of this folder, and copies of it to break."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_construction.layouts import layout_names, write_layout
from data_construction.synthetic import make_synthetic

CLIPS = {"train": 24, "valid": 4, "test": 4}


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only: 32 clips of 16 to 24 frames at 96 pixels."""
    root = tmp_path_factory.mktemp("data") / "synthetic"
    make_synthetic(root, CLIPS, seed=5)
    return root


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only: 3 + 2 short clips of 48 pixels, cheap to copy."""
    root = tmp_path_factory.mktemp("data") / "tiny"
    make_synthetic(root, {"train": 3, "valid": 2}, seed=2, frames=(12, 12), size=48)
    return root


@pytest.fixture
def broken(tiny: Path, tmp_path: Path) -> Path:
    """A private copy of ``tiny``."""
    return Path(shutil.copytree(tiny, tmp_path / "broken"))


@pytest.fixture
def edit() -> Callable[[Path, Callable[[Any], object]], None]:
    """Change a JSON file in place."""

    def change(path: Path, how: Callable[[Any], object]) -> None:
        value = json.loads(path.read_text())
        how(value)
        path.write_text(json.dumps(value))

    return change


@pytest.fixture(scope="session")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only: every data set in its published layout, three clips a split."""
    root = tmp_path_factory.mktemp("layouts")
    for name in layout_names():
        write_layout(name, root / name)
    return root
