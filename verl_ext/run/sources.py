"""What a recipe's ``data`` and ``val`` sections say about their sources, made of readers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from rollout.control_text import dialogue_of, query_of
from rollout.errors import DataError
from rollout.types import Expression, Sample

if TYPE_CHECKING:
    from verl_ext.recipe import DataSource, Recipe

T = TypeVar("T")


def load_samples(recipe: Recipe, held_out: bool = False) -> list[Sample]:
    """Expressions in a fixed order: ``data`` by its sources' weights, or ``val`` drawn down to ``eval_samples``.

    Expressions without a target are kept unless the method cannot use them (Veason-R1 skips them, SPEC 3).

    Raises:
        DataError: anything wrong with annotations or masks, control text in an expression, or a frame that is not
            there: before training, not in it. Or a source that gives nothing.
    """
    from data_construction.readers import open_dataset

    out: list[Sample] = []
    for i, source in enumerate(recipe.val if held_out else recipe.data):
        dataset = open_dataset(source.dataset, Path(source.root), source.split)
        kinds: Counter[str] = Counter()
        found = []
        for sample in dataset.samples(frames="exist"):
            kinds[sample.expression.kind] += 1
            if not source.kinds or sample.expression.kind in source.kinds:
                query_of(sample)  # raises for what no dialogue can ask
                found.append(sample)
        if recipe.method == "veason_r1":
            found = [s for s in found if s.expression.anno_ids]
        share = _share(found, source, recipe.seed + i, held_out)
        if not share:
            raise _nothing("expressions", i, source, kinds, held_out)
        out += share
    return _drawn(out, recipe) if held_out else out


def load_traces(recipe: Recipe, held_out: bool = False) -> list[tuple[Sample, Any]]:
    """(sample, VTS-CoT record) pairs, chosen like :func:`load_samples`; sources without annotations have none.

    Raises:
        DataError: a record whose clip the data set does not know, or a clip with a frame that is not there. Or a file
            of annotations that gives nothing.
    """
    out: list[tuple[Sample, Any]] = []
    for i, source in enumerate(recipe.val if held_out else recipe.data):
        kinds: Counter[str] = Counter()
        share = _share(list(_traces(source, kinds)), source, recipe.seed + i, held_out)
        if source.annotations and not share:
            raise _nothing("conversations", i, source, kinds, held_out)
        out += share
    return _drawn(out, recipe) if held_out else out


def _nothing(what: str, i: int, source: DataSource, kinds: Mapping[str, int], held_out: bool) -> DataError:
    """For a source of which nothing is left: what it holds, what the recipe asks of it, and the remedy."""
    where = f"{'val' if held_out else 'data'}[{i}]"
    place = source.annotations if what == "conversations" else source.root
    there = ", ".join(f"{n} of kind {kind or '(none)'}" for kind, n in sorted(kinds.items())) or "none at all"
    asked = f"kinds {source.kinds}" if source.kinds else "all kinds"
    asked += "" if held_out else f" with weight {source.weight:g}"
    return DataError(
        f"{where}: {place} (split {source.split}) gives no {what}; there are {there}, asked for are {asked}. Correct "
        f"{where}.kinds, weight or split, or leave the source out"
    )


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


def _traces(source: DataSource, kinds: Counter[str]) -> Iterator[tuple[Sample, Any]]:
    """Pairs of the source's kinds; ``kinds`` counts all that there are."""
    from data_construction.export.records import read_records
    from data_construction.readers import open_dataset

    if not source.annotations:
        return
    dataset = open_dataset(source.dataset, Path(source.root), source.split)
    looked_at: set[str] = set()
    for record in read_records(Path(source.annotations)):
        sample = sample_of(dataset, record)
        kind = record.kind or sample.expression.kind  # Records as released do not say it.
        kinds[kind] += 1
        if not source.kinds or kind in source.kinds:
            if record.video_name not in looked_at:
                looked_at.add(record.video_name)
                for problem in dataset.frame_problems(dataset.index[record.video_name], "exist"):
                    raise problem.error()
            dialogue_of(sample, record.replies)
            yield sample, record


def sample_of(dataset: Any, record: Any) -> Sample:
    """The record's clip, question and ground truth; raises DataError if the data set does not know the clip."""
    clip = record.video_name
    known = [e for e in dataset.expressions(clip) if e.text == record.exp and e.anno_ids == record.anno_id]
    expression = known[0] if known else Expression("trace", record.exp, record.anno_id)
    return Sample(dataset.clip(clip), expression, dataset.masklets(clip, record.anno_id))
