"""``videoseg data segmentation``: the one-turn conversations of VideoSEG-O3's first stage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rollout.errors import DataError

EXIT_SET_ASIDE = 1
SHOWN_PROBLEMS = 20


def segmentation(
    name: Annotated[str, typer.Argument(help="A data set's name (revos, refcoco, ...) or its YAML file.")],
    root: Annotated[Path, typer.Argument(help="Its folder.")],
    out: Annotated[Path, typer.Option(help="JSON file for the conversations (VTS-CoT records).")],
    split: Annotated[str, typer.Option(help="One of its splits, with masks.")] = "train",
    kind: Annotated[list[str] | None, typer.Option(help="Only expressions of this kind; may be repeated.")] = None,
    frames: Annotated[int, typer.Option(help="Frames whose masks a conversation holds; 1: the middle one.", min=1)] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Write one short conversation for each expression: the question, then [SEG]. No model is asked.

    The first supervised stage (recipes/videoseg_o3/sft_*.yaml) learns from it what a [SEG] must say: name the file as
    the source's annotations. Exits with 1 if expressions were set aside as unreadable. Examples:

      videoseg data segmentation revos data/ReVOS --out data/VideoSEG-O3/sft_revos.json

      videoseg data segmentation refcoco data/RefCOCO --out data/VideoSEG-O3/sft_refcoco.json
    """
    from rich.console import Console

    from data_construction.cot.segmentation import write_segmentation_file
    from data_construction.readers import open_dataset
    from verl_ext.run.progress import progress_bar

    if out.exists() and not overwrite:
        raise DataError(f"{out}: is there already; add --overwrite or give another --out")
    problems: list[DataError] = []
    with progress_bar(Console(stderr=True)) as progress:
        dataset = open_dataset(name, root, split)
        written = write_segmentation_file(dataset, out, kind or (), frames, problems.append, progress)
    typer.echo(f"{out}: {written} conversations")
    for problem in problems[:SHOWN_PROBLEMS]:
        typer.echo(f"set aside: {problem}", err=True)
    if len(problems) > SHOWN_PROBLEMS:
        typer.echo(f"set aside: {len(problems) - SHOWN_PROBLEMS} more", err=True)
    if problems:
        raise typer.Exit(EXIT_SET_ASIDE)
