"""What a benchmark is: which data, which frames, which scorer, which groups, and the paper's numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_construction.readers import Dataset, open_dataset
from rollout.errors import DataError
from rollout.types import Masklets, Sample


@dataclass(frozen=True)
class Benchmark:
    """One stanza of ``eval/benchmarks/stanzas``, or of a YAML file of your own."""

    name: str
    dataset: str
    """A data set's name, or its YAML file."""
    split: str
    scorer: str | None = None
    """A name registered with ``@register_scorer``; None: the ground truth is not public."""
    groups: tuple[str, ...] = ()
    """Groupings of the table, by their names in ``eval.scorers.grouping``."""
    frames: int | None = None
    """So many frames of a clip are scored, ``numpy.linspace(0, T - 1, frames, dtype=int)``, which truncates, and
    repeats frames of clips with fewer; all are predicted. None: all are scored."""
    missing: str = ""
    """What the benchmark's own tool does with an expression without a prediction, by its name in
    ``eval.scorers.missing``; "": it has no tool, or none that is public."""
    submission: str | None = None
    """A packager registered with ``@register_packager``; None: there is no server."""
    protocol: dict[str, Any] = field(default_factory=dict)
    """Recipe settings of the paper's evaluation, such as ``rollout.eval.initial_low_res: 20``."""
    published: dict[str, dict[str, float]] = field(default_factory=dict)
    """Method -> metric -> value, as the papers print them."""
    about: str = ""
    server: str = ""
    """Where a submission goes."""

    def dataset_at(self, root: str | Path) -> Dataset:
        """The data set under ``root``. Raises DataError if it is not there or not what its stanza says."""
        return open_dataset(self.dataset, root, self.split)

    def samples(self, root: str | Path) -> Iterator[Sample]:
        """Every expression in the data set's order, all frames of its clip; nothing is left out.

        Raises DataError naming file, clip and annotation for the first that is broken.
        """
        dataset = self.dataset_at(root)
        for clip in dataset.clips():
            yield from self.clip_samples(dataset, clip)

    def clip_samples(self, dataset: Dataset, clip: str) -> list[Sample]:
        """One clip's expressions in order. Raises DataError likewise, also where the annotation file is wrong."""
        for problem in dataset.index[clip].faults:
            raise problem.error()
        return [self.sample(dataset, clip, e.id) for e in dataset.expressions(clip)]

    def sample(self, dataset: Dataset, clip: str, expression_id: str, by_rule: bool = False) -> Sample:
        """One expression; ``by_rule`` takes odd annotations as the data set's own tool takes them."""
        return dataset.get(clip, expression_id, by_rule)

    def scored_frames(self, dataset: Dataset, sample: Sample) -> tuple[int, ...] | None:
        """Frames whose scores count, in order and perhaps more than once; None: all of them, once."""
        if self.frames is not None:
            return tuple(np.linspace(0, sample.clip.num_frames - 1, self.frames, dtype=int).tolist())
        return dataset.scored_frames(sample.clip.name, sample.expression.anno_ids)

    def foreground(self, dataset: Dataset, clip: str, by_rule: bool = False) -> Masklets:
        """Everything in the foreground of a clip. Raises DataError where the data set has none."""
        found = dataset.foreground(clip, by_rule)
        if found is None:
            raise DataError(
                f"{dataset.root}: no foreground masks, which scorer {self.scorer!r} of benchmark {self.name} needs; "
                "get the data set's foreground file"
            )
        return found
