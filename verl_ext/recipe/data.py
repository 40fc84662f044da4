"""The data sections: ``data`` is trained on, ``val`` is held out."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class DataSource:
    """One split of one data set."""

    dataset: str = "???"
    """A name of ``data_construction/datasets``, or the path of such a YAML file."""
    root: str = "???"
    """Folder of the data set."""
    split: str = "train"
    """A split of the data set."""
    annotations: str | None = None
    """JSON of multi-turn traces (VTS-CoT records); the supervised stages read conversations from it."""
    weight: float = 1.0
    """How often an epoch shows its samples: 2.0 is each twice, 0.5 a fixed half of them. Only in ``data``."""
    kinds: list[str] = field(default_factory=list)
    """Only expressions of these kinds (a data set's own labels); empty takes all."""
    max_samples: int | None = None
    """Only the first so many expressions."""
