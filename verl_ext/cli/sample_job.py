"""``videoseg data sample`` from its options to its last line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import typer

from rollout.errors import RecipeError
from verl_ext.cli.progress import progress_bar


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


def run_sample(r: SampleRequest) -> bool:
    """True if every expression could be read. Raises DataError, RecipeError."""
    from rich.console import Console

    from data_construction.readers import open_dataset
    from data_construction.sample import draw, read_population, write_annotations, write_ids
    from data_construction.sample.table import sample_table
    from data_construction.sample.write import select_path

    if r.no_annotations and r.ids is None:
        raise RecipeError("--no-annotations without --ids FILE writes nothing; add --ids")
    dataset = open_dataset(r.name, r.root, r.split)
    with progress_bar(Console(stderr=True)) as progress:
        population = read_population(dataset, r.strata, r.bins, r.targets_only, progress)
    drawn = draw(population.items, r.size, r.seed, r.per_clip, r.relax)
    typer.echo(sample_table(population, drawn, r.per_clip))
    if r.ids is not None:
        write_ids(dataset, population.strata, drawn.items, r.ids, r.overwrite)
        typer.echo(f"ids: {r.ids}")
    if not r.no_annotations:
        path = r.out or select_path(dataset)
        stanza = write_annotations(dataset, drawn.items, path, r.overwrite)
        typer.echo(f"annotations: {path}\nopen it as: data set {stanza}, root {r.root}, split {r.split}_select")
    return not population.problems
