"""What a benchmark is: which data, which frames, which scorer, which groups, and the paper's numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data_construction.readers import Dataset, open_dataset
from rollout.errors import DataError
from rollout.frames import evenly_spaced
from rollout.types import Clip, Masklets, Sample


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
    """So many evenly spaced frames of a clip, both ends included, are predicted and scored; None: all."""
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
        """Every expression in the data set's order, cut to this benchmark's frames; nothing is left out.

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

    def sample(self, dataset: Dataset, clip: str, expression_id: str) -> Sample:
        """One expression, cut to this benchmark's frames."""
        found = dataset.get(clip, expression_id)
        if self.frames is None or found.clip.num_frames <= self.frames:
            return found
        keep = evenly_spaced(0, found.clip.num_frames - 1, self.frames)
        masklets = None if found.masklets is None else _cut_masklets(found.masklets, keep)
        return replace(found, clip=_cut_clip(found.clip, keep), masklets=masklets)

    def foreground(self, dataset: Dataset, clip: str) -> Masklets:
        """Everything in the foreground of a clip, cut likewise. Raises DataError where the data set has none."""
        found = dataset.foreground(clip)
        if found is None:
            raise DataError(
                f"{dataset.root}: no foreground masks, which scorer {self.scorer!r} of benchmark {self.name} needs; "
                "get the data set's foreground file"
            )
        if self.frames is None or found.num_frames <= self.frames:
            return found
        return _cut_masklets(found, evenly_spaced(0, found.num_frames - 1, self.frames))


def _cut_clip(clip: Clip, keep: list[int]) -> Clip:
    # Frames are no longer equally far apart in time to the last digit, but their mean rate is what fps must say.
    share = (len(keep) - 1) / max(1, clip.num_frames - 1)
    fps = None if clip.fps is None else clip.fps * share
    return replace(clip, frames=tuple(clip.frames[t] for t in keep), fps=fps)


def _cut_masklets(masklets: Masklets, keep: list[int]) -> Masklets:
    rles = tuple(tuple(rle[t] for t in keep) for rle in masklets.rles)
    return Masklets(masklets.height, masklets.width, rles, len(keep))
