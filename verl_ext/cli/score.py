"""``videoseg score``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from verl_ext.cli.group import EXIT_INCOMPLETE


def score(
    results: Annotated[Path, typer.Argument(help="results.jsonl of an evaluation, or the folder that holds it.")],
    root: Annotated[Path, typer.Option(help="The data set's folder.")],
    benchmark: Annotated[str | None, typer.Option(help="A benchmark's name (revos, mevis_u, ...) or its YAML.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Instead of a benchmark: J and F on any data set.")] = None,
    split: Annotated[str, typer.Option(help="With --dataset: one of its splits.")] = "valid",
    out: Annotated[Path | None, typer.Option(help="Folder for scores.json and scores.csv.")] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Do not round each expression as the tools of ReVOS and Ref-SAV do.")
    ] = False,
    released: Annotated[
        bool,
        typer.Option(
            "--released",
            help="As the benchmark's own tool does where ours differs: missing expressions, ReVOS' A and R.",
        ),
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first annotation that is odd or cannot be used.")
    ] = False,
    workers: Annotated[int | None, typer.Option(help="Processes; default: one a core, fewer for little", min=1)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Score results against ground truth; needs neither torch nor a GPU.

    What the results lack counts 0 and is listed; results of another benchmark are refused. An odd annotation counts as
    the benchmark's own tool counts it; one that cannot be used counts 0, is listed, and makes the exit code 3.
    Examples:

      videoseg score runs/eval --benchmark revos --root data/ReVOS --out runs/eval

      videoseg score runs/eval/results.jsonl --dataset revos --root data/ReVOS --split test
    """
    from rich.console import Console

    from eval.results.run_info import read_run_info
    from eval.scores.benchmark import score_benchmark
    from eval.scores.files import scores_table, write_scores
    from rollout.errors import DataError
    from verl_ext.evaluation.targets import one_benchmark, results_file
    from verl_ext.run.progress import progress_bar

    found, path = one_benchmark(benchmark, dataset, split), results_file(results)
    if dataset is not None and (exact or released or workers is not None):
        raise DataError(
            "--exact and --workers belong to --benchmark, so does --released; --dataset scores J and F in one process"
        )
    with progress_bar(Console(stderr=True)) as progress:
        scores = score_benchmark(
            path,
            found,
            root,
            exact=exact,
            released=released,
            strict=strict,
            largest=dataset is not None,
            workers=workers if dataset is None else 1,
            run=read_run_info(path),
            progress=progress,
        )
    if out is not None:
        write_scores(scores, out)
    typer.echo(json.dumps(scores.to_dict(), indent=1) if as_json else scores_table(scores))
    if scores.broken:
        raise typer.Exit(EXIT_INCOMPLETE)
