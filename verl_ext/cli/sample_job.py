"""``videoseg data sample`` from its options to its last line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from rollout.errors import DataError, RecipeError
from verl_ext.run.progress import progress_bar

if TYPE_CHECKING:
    from data_construction.readers import Dataset
    from rollout.types import Expression


@dataclass(frozen=True)
class SampleRequest:
    """The options of ``videoseg data sample``."""

    name: str
    root: Path
    split: str
    size: int
    strata: tuple[str, ...]
    bins: int
    per_clip: int | None
    relax: bool
    targets_only: bool
    seed: int
    out: Path | None
    ids: Path | None
    no_annotations: bool
    overwrite: bool
    no_check: bool = False
    """Do not look at frames and masks."""
    min_ceiling: float | None = None
    """Leave out expressions on which the segmenter reaches less J&F from true prompts."""
    ceiling: Path | None = None
    ceiling_of: str = "boxes"


def run_sample(r: SampleRequest) -> bool:
    """True if every expression could be read. Everything asked for is written, or nothing. Raises DataError,
    RecipeError."""
    from rich.console import Console

    from data_construction.readers import open_dataset
    from data_construction.sample import draw, read_population
    from data_construction.sample.table import sample_table
    from data_construction.sample.write import annotation_files, ids_file, stanza_path, write_files

    if r.no_annotations and r.ids is None:
        raise RecipeError("--no-annotations without --ids FILE writes nothing; add --ids")
    dataset = open_dataset(r.name, r.root, r.split)
    path = None if r.no_annotations else _annotations(r, dataset)
    with progress_bar(Console(stderr=True), pace=True) as progress:
        population = read_population(
            dataset, r.strata, r.bins, r.targets_only, progress, not r.no_check, _filter(r, dataset)
        )
    drawn = draw(population.items, r.size, r.seed, r.per_clip, r.relax)
    typer.echo(sample_table(population, drawn, r.per_clip))
    files = {} if path is None else annotation_files(dataset, drawn.items, path)
    if r.ids is not None:
        files[r.ids] = ids_file(dataset, population.strata, drawn.items)
    write_files(files, r.overwrite)
    if r.ids is not None:
        typer.echo(f"ids: {r.ids}")
    if path is not None:
        stanza = stanza_path(path)
        typer.echo(f"annotations: {path}\nopen it as: data set {stanza}, root {r.root}, split {r.split}_select")
    return not population.problems


def _filter(r: SampleRequest, dataset: Dataset) -> Callable[[str, Expression], bool] | None:
    """By ceiling. Raises DataError, RecipeError for options without each other, and for a file of something else."""
    from data_construction.ceiling import PROMPTS, ceiling_file, read_ceilings

    if r.min_ceiling is None:
        if r.ceiling is not None:
            raise RecipeError(f"--ceiling {r.ceiling}: needs --min-ceiling, the J&F in percent from which to draw")
        return None
    if not 0 <= r.min_ceiling <= 100:
        raise RecipeError(f"--min-ceiling {r.min_ceiling:g}: is J&F in percent, 0 to 100")
    if r.ceiling_of not in PROMPTS:
        raise RecipeError(f"--ceiling-of {r.ceiling_of}: wants {' or '.join(PROMPTS)}")
    path, least = r.ceiling or ceiling_file(dataset.root, dataset.split), r.min_ceiling
    known = read_ceilings(path, dataset.name, dataset.split)
    for row in known.values():
        row.of(r.ceiling_of)  # or every single expression would be refused

    def keep(clip: str, expression: Expression) -> bool:
        if (clip, expression.id) not in known:
            raise DataError(f"{path}: has no ceiling of clip {clip}, expression {expression.id}; measure it again")
        return known[clip, expression.id].of(r.ceiling_of) >= least

    return keep


def _annotations(r: SampleRequest, dataset: Dataset) -> Path:
    """Where they go. Raises DataError, RecipeError for what could not be written later, after all the reading."""
    from data_construction.sample.write import check_format, select_path, stanza_path

    check_format(dataset)
    path = r.out or select_path(dataset)
    if r.ids is not None and r.ids.absolute() in (path.absolute(), stanza_path(path).absolute()):
        raise RecipeError(f"--ids {r.ids}: is where the annotations or their stanza go; give another file")
    return path
