"""The expressions of a split with the strata they belong to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from data_construction.problems import Problem, Progress, problem_of
from data_construction.readers import Dataset
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


def read_population(
    dataset: Dataset,
    strata: Sequence[str] = DEFAULT_STRATA,
    bins: int = 3,
    targets_only: bool = False,
    progress: Progress | None = None,
) -> Population:
    """Measure every expression. One that cannot be measured is named in ``problems`` and left out.

    targets_only: leave out expressions without a target (Veason-R1 skips them). Raises DataError for an unknown
    stratum or where nothing is left.
    """
    chosen = get_strata(strata)
    problems: list[Problem] = []
    found: list[tuple[str, str]] = []
    values: list[list[Value]] = []
    for clip, expression in _expressions(dataset, problems, progress):
        if targets_only and not expression.anno_ids:
            continue
        try:
            values.append([one.measure(dataset, clip, expression) for one in chosen])
        except DataError as e:
            problems.append(problem_of(e, str(dataset.root), "unreadable_sample"))
            continue
        found.append((clip, expression.id))
    if not found:
        raise DataError(f"{dataset.root}: split {dataset.split} of {dataset.name} has no expression to draw from")
    columns = [binned(column, bins) for column in zip(*values, strict=True)]
    keys = list(zip(*columns, strict=True)) if columns else [()] * len(found)
    items = [Item(clip, eid, key) for (clip, eid), key in zip(found, keys, strict=True)]
    return Population(tuple(one.name for one in chosen), items, problems)


def _expressions(
    dataset: Dataset, problems: list[Problem], progress: Progress | None
) -> Iterator[tuple[str, Expression]]:
    for done, entry in enumerate(dataset.index.values()):
        if progress is not None:
            progress(done, len(dataset.index), f"reading {dataset.name}/{dataset.split}")
        problems += entry.problems
        if not entry.problems:
            for expression in entry.expressions.values():
                yield entry.name, expression
