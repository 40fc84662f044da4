"""What a recipe's ``data`` and ``val`` sections say about their sources, made of readers."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from rollout.control_text import dialogue_of, query_of
from rollout.errors import DataError
from rollout.types import Expression, Sample
from verl_ext.recipe.trace_grid import grid_problem

if TYPE_CHECKING:
    from data_construction.problems import Problem
    from data_construction.readers import Dataset
    from verl_ext.recipe import DataSource, Recipe

logger = logging.getLogger(__name__)
NAMED = 5
"""Clips that a warning names."""
T = TypeVar("T")


def load_samples(recipe: Recipe, held_out: bool = False) -> list[Sample]:
    """Expressions in a fixed order: ``data`` by its sources' weights, or ``val`` drawn down to ``eval_samples``.

    Expressions without a target are kept unless the method cannot use them (Veason-R1 skips them, SPEC 3). A clip of
    which nothing is there is left out, with a warning.

    Raises:
        DataError: anything wrong with annotations or masks, control text in an expression, or a frame that is missing
            from a clip: before training, not in it. Or a source that gives nothing.
    """
    from data_construction.readers import open_dataset

    out: list[Sample] = []
    for i, source in enumerate(recipe.val if held_out else recipe.data):
        dataset = open_dataset(source.dataset, Path(source.root), source.split)
        kinds: Counter[str] = Counter()
        found = []
        for sample in _of_clips_that_are_there(dataset):
            kinds[sample.expression.kind] += 1
            if not source.kinds or sample.expression.kind in source.kinds:
                query_of(sample)  # raises for what no dialogue can ask
                found.append(sample)
        if recipe.has_boxes and not recipe.rollout.box_no_target:
            found = [s for s in found if s.expression.anno_ids]
        share = _share(found, source, recipe.seed + i, held_out)
        if not share:
            raise _nothing("expressions", i, source, kinds, held_out)
        out += share
    return _drawn(out, recipe) if held_out else out


def _of_clips_that_are_there(dataset: Dataset) -> Iterator[Sample]:
    """Every sample, its frames looked for. Raises DataError for the first fault, or where no clip is there at all."""
    gone: list[Problem] = []
    for entry in dataset.index.values():
        if (problem := dataset.absent(entry)) is not None:
            gone.append(problem)
        else:
            yield from dataset.samples_of(entry, _stop, "exist")
    _tell(dataset, gone)


def _stop(error: DataError) -> None:
    raise error


def _tell(dataset: Dataset, gone: Sequence[Problem]) -> None:
    """Warn of clips that are left out. Raises DataError if that is all of them."""
    if gone and len(gone) == len(dataset.index):
        raise gone[0].error()
    if gone:
        clips = ", ".join(p.clip for p in gone[:NAMED]) + (f" and {len(gone) - NAMED} more" if gone[NAMED:] else "")
        words = "%s, split %s: %d of %d clips are not there and are left out: %s; the first: %s"
        logger.warning(words, dataset.root, dataset.split, len(gone), len(dataset.index), clips, gone[0])


def load_traces(recipe: Recipe, held_out: bool = False) -> list[tuple[Sample, Any]]:
    """(sample, VTS-CoT record) pairs, chosen like :func:`load_samples`; sources without annotations have none.

    Raises:
        DataError: a record whose clip the data set does not know, whose boxes or seconds are of another grid than the
            recipe's, or a clip that lacks a frame. Or a file of annotations that gives nothing.
    """
    out: list[tuple[Sample, Any]] = []
    for i, source in enumerate(recipe.val if held_out else recipe.data):
        kinds: Counter[str] = Counter()
        share = _share(list(_traces(source, kinds)), source, recipe.seed + i, held_out)
        if source.annotations and not share:
            raise _nothing("conversations", i, source, kinds, held_out)
        for sample, record in share:
            if problem := grid_problem(recipe, record, sample.clip):
                raise DataError(f"{source.annotations}: trace of {sample.id}: {problem}")
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
    gone: dict[str, Problem] = {}
    for record in read_records(Path(source.annotations)):
        entry = dataset.index.get(record.video_name)
        if entry is not None and entry.name not in looked_at and (problem := dataset.absent(entry)) is not None:
            gone[entry.name] = problem
            continue
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
    if gone and not kinds:
        raise next(iter(gone.values())).error()
    _tell(dataset, [*gone.values()])


def sample_of(dataset: Any, record: Any) -> Sample:
    """A record's clip, question and the masks that it draws; raises DataError if the data set lacks the clip."""
    clip = record.video_name
    known = [e for e in dataset.expressions(clip) if e.text == record.exp and e.anno_ids == record.anno_id]
    expression = known[0] if known else Expression("trace", record.exp, record.anno_id)
    # a trace may draw another object than it answers for; what is scored never comes from a trace
    return Sample(dataset.clip(clip), expression, dataset.masklets(clip, record.mask_anno_id or record.anno_id))
