"""``videoseg eval``, ``score`` and ``report``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

Device = Literal["cpu", "cuda"]
DatasetOption = Annotated[str, typer.Option(help="A data set's name (revos, mevis, ...) or its YAML file.")]
RootOption = Annotated[Path, typer.Option(help="The data set's folder.")]
SplitOption = Annotated[str, typer.Option(help="One of its splits.")]


def evaluate(
    policy: Annotated[Path, typer.Argument(help="Policy folder in Hugging Face layout.")],
    dataset: DatasetOption,
    root: RootOption,
    split: SplitOption = "valid",
    out: Annotated[Path, typer.Option(help="Folder for results and scores.")] = Path("runs/eval"),
    recipe: Annotated[
        Path | None, typer.Option(help="Recipe whose dialogue and engine are used; default: the published numbers.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Recipe setting to change, as key=value; may be repeated.")
    ] = None,
    device: Annotated[Device | None, typer.Option(help="Default: the recipe's, or what there is.")] = None,
    gpus: Annotated[int, typer.Option(help="GPUs to use, one engine each.", min=1)] = 1,
    max_samples: Annotated[int | None, typer.Option(help="Only so many expressions, a fixed draw.", min=1)] = None,
) -> None:
    """Evaluate a policy: greedy dialogues, masks propagated over the whole clip, J and F.

    Writes OUT/results.jsonl as it goes, then scores.json and scores.csv; the same command goes on where it stopped.
    Examples:

      videoseg eval runs/grpo_2b/checkpoints/global_step_1000/policy --dataset revos --root data/ReVOS --gpus 8

      videoseg eval runs/quickstart/cold_start/policy --dataset revos --root runs/quickstart/data --split test
      --recipe recipes/quickstart/grpo.yaml
    """
    from rich.console import Console

    from eval.score_files import scores_table
    from verl_ext.cli.evaluation import Request, run
    from verl_ext.cli.progress import progress_bar

    request = Request(policy, dataset, root, split, out, recipe, tuple(overrides or ()), device, gpus, max_samples)
    with progress_bar(Console(stderr=True)) as progress:
        scores = run(request, progress)
    typer.echo(scores_table(scores))


def score(
    results: Annotated[Path, typer.Argument(help="results.jsonl of an evaluation.")],
    dataset: DatasetOption,
    root: RootOption,
    split: SplitOption = "valid",
    out: Annotated[Path | None, typer.Option(help="Folder for scores.json and scores.csv.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Score a results file against ground truth; needs neither torch nor a GPU.

    Example:

      videoseg score runs/eval/results.jsonl --dataset revos --root data/ReVOS --split valid
    """
    from rich.console import Console

    from data_construction.readers import open_dataset
    from eval.results import read_results
    from eval.score import score_results
    from eval.score_files import scores_table, write_scores
    from verl_ext.cli.progress import progress_bar

    records = read_results(results)
    with progress_bar(Console(stderr=True)) as progress:
        scores = score_results(records, open_dataset(dataset, root, split).samples(), progress=progress)
    if out is not None:
        write_scores(scores, out)
    typer.echo(json.dumps(scores.to_dict(), indent=1) if as_json else scores_table(scores))


def report(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a run.")],
    out: Annotated[Path | None, typer.Option(help="HTML file; default RUN_DIR/report.html.")] = None,
) -> None:
    """Write a run's report: one HTML page with curves, scores and dialogues, that needs no network.

    Example:

      videoseg report runs/quickstart
    """
    from verl_ext.run_report import write_report

    typer.echo(f"report: {write_report(run_dir, out or run_dir / 'report.html')}")
