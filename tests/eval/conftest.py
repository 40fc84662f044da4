"""Folders in the data sets' exact layouts, made once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from data_construction.layouts import write_layout


@pytest.fixture(scope="session")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``layouts("mevis")``: read-only, two clips a split."""
    made: dict[str, Path] = {}

    def get(dataset: str) -> Path:
        if dataset not in made:
            made[dataset] = tmp_path_factory.mktemp("layout") / dataset
            write_layout(dataset, made[dataset], seed=1, clips=2)
        return made[dataset]

    return get
