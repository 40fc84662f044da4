"""What a recipe's ``data`` and ``val`` sections say about their sources, made of readers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from rollout.types import Expression, Sample

if TYPE_CHECKING:
    from verl_ext.recipe import DataSource, Recipe

T = TypeVar("T")


def load_samples(recipe: Recipe, held_out: bool = False) -> list[Sample]:
    """Expressions in a fixed order: ``data`` by its sources' weights, or ``val`` drawn down to ``eval_samples``.

    Expressions without a target are kept unless the method cannot use them (Veason-R1 skips them, SPEC 3).
    """
    from data_construction.readers import open_dataset

    out: list[Sample] = []
    for i, source in enumerate(recipe.val if held_out else recipe.data):
        dataset = open_dataset(source.dataset, Path(source.root), source.split)
        found = [s for s in dataset.samples() if not source.kinds or s.expression.kind in source.kinds]
        if recipe.method == "veason_r1":
            found = [s for s in found if s.expression.anno_ids]
        out += _share(found, source, recipe.seed + i, held_out)
    return _drawn(out, recipe) if held_out else out


def load_traces(recipe: Recipe, held_out: bool = False) -> list[tuple[Sample, Any]]:
    """(sample, VTS-CoT record) pairs, chosen like :func:`load_samples`; sources without annotations have none.

    Raises:
        DataError: a record whose clip the data set does not know.
    """
    out: list[tuple[Sample, Any]] = []
    for i, source in enumerate(recipe.val if held_out else recipe.data):
        out += _share(list(_traces(source)), source, recipe.seed + i, held_out)
    return _drawn(out, recipe) if held_out else out


def weighted(items: Sequence[T], weight: float, seed: int) -> list[T]:
    """``round(weight * len(items))`` items: all of them ``floor(weight)`` times, and a fixed draw of the rest."""
    copies, rest = divmod(round(weight * len(items)), len(items)) if items else (0, 0)
    chosen = np.random.default_rng(seed).permutation(len(items))[:rest]
    return [*items] * copies + [items[i] for i in sorted(chosen)]


def _share(items: list[T], source: DataSource, seed: int, held_out: bool) -> list[T]:
    first = items[: source.max_samples] if source.max_samples else items
    return first if held_out else weighted(first, source.weight, seed)


def _drawn(items: list[T], recipe: Recipe) -> list[T]:
    """``trainer.eval_samples`` of them, the same ones for the same seed."""
    limit = recipe.trainer.eval_samples
    if limit is None or limit >= len(items):
        return items
    chosen = np.random.default_rng(recipe.seed).permutation(len(items))[:limit]
    return [items[i] for i in sorted(chosen)]


def _traces(source: DataSource) -> Iterator[tuple[Sample, Any]]:
    from data_construction.export.records import read_records
    from data_construction.readers import open_dataset

    if not source.annotations:
        return
    dataset = open_dataset(source.dataset, Path(source.root), source.split)
    for record in read_records(Path(source.annotations)):
        if not source.kinds or record.kind in source.kinds:
            yield sample_of(dataset, record), record


def sample_of(dataset: Any, record: Any) -> Sample:
    """The record's clip, question and ground truth; raises DataError if the data set does not know the clip."""
    clip = record.video_name
    known = [e for e in dataset.expressions(clip) if e.text == record.exp and e.anno_ids == record.anno_id]
    expression = known[0] if known else Expression("trace", record.exp, record.anno_id)
    return Sample(dataset.clip(clip), expression, dataset.masklets(clip, record.anno_id))
