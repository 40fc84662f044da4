"""The expressions of a split with the strata they belong to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from data_construction.problems import Problem, Progress, problem_of
from data_construction.readers import Dataset
from data_construction.readers.annotations import ClipEntry
from data_construction.sample.strata import Value, binned, get_strata
from rollout.errors import DataError
from rollout.types import Expression

Key = tuple[str, ...]
DEFAULT_STRATA = ("type", "objects")


@dataclass(frozen=True)
class Item:
    """One expression: where it is and its joint stratum."""

    clip: str
    expression_id: str
    key: Key = ()

    @property
    def id(self) -> str:
        return f"{self.clip}/{self.expression_id}"


@dataclass(frozen=True)
class Population:
    """All expressions that can be drawn, in the data set's order; ``problems`` are those that cannot."""

    strata: tuple[str, ...]
    items: list[Item]
    problems: list[Problem]
    set_aside: int = 0
    """Expressions that cannot be drawn; one problem may be that of many."""


def read_population(
    dataset: Dataset,
    strata: Sequence[str] = DEFAULT_STRATA,
    bins: int = 3,
    targets_only: bool = False,
    progress: Progress | None = None,
    check: bool = True,
    keep: Callable[[str, Expression], bool] | None = None,
) -> Population:
    """Measure every expression. One that cannot be used or measured is named in ``problems`` and left out.

    targets_only: leave out expressions without a target (Veason-R1 skips them). check: an expression counts as usable
    if its clip's frames are there and its masks fit them; False reads the annotation file only, and what the strata
    measure. keep: of clip and expression, whether it may be drawn (a filter by ceiling, say); what it raises is a
    problem of that expression. Raises DataError for an unknown stratum or where nothing is left.
    """
    chosen = get_strata(strata)
    problems: list[Problem] = []
    found: list[tuple[str, str]] = []
    values: list[list[Value]] = []
    set_aside = 0

    def report(error: DataError) -> None:
        problems.append(problem_of(error, str(dataset.root), "unreadable_sample"))

    for done, entry in enumerate(dataset.index.values()):
        if progress is not None:
            progress(done, len(dataset.index), f"reading {dataset.name}/{dataset.split}")
        usable = 0
        for expression in _expressions(dataset, entry, report, check):
            if targets_only and not expression.anno_ids:
                usable += 1
                continue
            try:
                if keep is not None and not keep(entry.name, expression):
                    usable += 1
                    continue
                values.append([one.measure(dataset, entry.name, expression) for one in chosen])
            except DataError as e:
                report(e)
                continue
            usable += 1
            found.append((entry.name, expression.id))
        set_aside += len(entry.expressions) + len(entry.lost) - usable
    if not found:
        why = f"; the first of {len(problems)} problems: {problems[0]}" if problems else ""
        raise DataError(f"{dataset.root}: split {dataset.split} of {dataset.name} has no expression to draw from{why}")
    columns = [binned(column, bins) for column in zip(*values, strict=True)]
    keys = list(zip(*columns, strict=True)) if columns else [()] * len(found)
    items = [Item(clip, eid, key) for (clip, eid), key in zip(found, keys, strict=True)]
    return Population(tuple(one.name for one in chosen), items, list(dict.fromkeys(problems)), set_aside)


def _expressions(
    dataset: Dataset, entry: ClipEntry, report: Callable[[DataError], None], check: bool
) -> Iterator[Expression]:
    if check:
        yield from (sample.expression for sample in dataset.samples_of(entry, report, "exist"))
        return
    for problem in [entry.refused] if entry.refused is not None else entry.problems:
        report(problem.error())
    if entry.refused is None:
        for odd in entry.odd.values():
            report(odd.error())
        yield from (e for e in entry.expressions.values() if e.id not in entry.odd)
