"""``videoseg eval``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rollout.errors import DataError
from verl_ext.cli.group import EXIT_INCOMPLETE, EXIT_INTERRUPTED

if TYPE_CHECKING:
    from verl_ext.evaluation.job import Finished

Device = Literal["cpu", "cuda"]
Images = Literal["blank", "shuffled", "frozen", "other-clip"]
"""The ways of ``rollout.spoilt.WAYS``."""


def evaluate(
    policy: Annotated[Path | None, typer.Argument(help="Policy folder, or --model.")] = None,
    model: Annotated[
        Path | None, typer.Option(help="Policy folder in Hugging Face layout, or a released VideoSEG-O3 checkpoint.")
    ] = None,
    benchmark: Annotated[
        str | None, typer.Option(help="Benchmarks by name (revos,mevis_u,...) or YAML file, with commas between.")
    ] = None,
    root: Annotated[
        list[str] | None, typer.Option(help="NAME=DIR for each benchmark, or one folder that holds all data sets.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Instead of a benchmark: J and F on a data set.")] = None,
    split: Annotated[str, typer.Option(help="With --dataset: one of its splits.")] = "valid",
    out: Annotated[Path, typer.Option(help="Folder for results and scores; one in it for each benchmark.")] = Path(
        "runs/eval"
    ),
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="Recipe whose dialogue and engine are used (--gpus lays out the pool); default: the published numbers."
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Recipe setting to change, as key=value; may be repeated.")
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            help="Prompt set by name or YAML file; default: the recipe's, or what the policy was trained with."
        ),
    ] = None,
    device: Annotated[Device | None, typer.Option(help="Default: the recipe's, or what there is.")] = None,
    gpus: Annotated[int, typer.Option(help="GPUs to use, one engine each.", min=1)] = 1,
    max_samples: Annotated[int | None, typer.Option(help="Only so many expressions, a fixed draw.", min=1)] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Do not start, nor score, where an annotation is odd or cannot be used.")
    ] = False,
    images: Annotated[
        Images | None,
        typer.Option(help="Does it look? Spoil what the policy is shown; results go to images_<how> in the folder."),
    ] = None,
    base: Annotated[
        Path | None, typer.Option(help="Qwen3-VL folder for a released checkpoint without tokenizer and config.")
    ] = None,
) -> None:
    """Evaluate a policy: greedy dialogues, masks propagated over the whole clip, scores.

    Each finished expression is on disk at once; the same command goes on where it stopped. Exit code 3: some
    expressions failed (they count 0; OUT/.../failed.jsonl says why, and the same command tries them again), or their
    annotations cannot be used (they count 0 and are listed); 2: also where results are there but could not be scored.
    Examples:

      videoseg eval --model models/policy --benchmark revos,mevis_u --root data --gpus 8 --out runs/eval

      videoseg eval runs/quickstart/cold_start/policy --dataset revos --root runs/quickstart/data --split test
      --recipe recipes/quickstart/grpo.yaml

      videoseg eval --model models/policy --benchmark revos --root data --out runs/eval --images blank
    """
    from rich.console import Console

    from eval.results.spoilt import spoilt_folder
    from verl_ext.evaluation.job import Request, run
    from verl_ext.evaluation.targets import benchmark_targets, dataset_target
    from verl_ext.recipe import override
    from verl_ext.run.progress import progress_bar

    if (policy is None) == (model is None):
        raise DataError("give the policy's folder once: --model FOLDER, or as the first argument")
    if (benchmark is None) == (dataset is None):
        raise DataError("give --benchmark NAMES or --dataset NAME, and not both")
    roots = root or []
    if benchmark is not None:
        targets = benchmark_targets(benchmark, roots, out)
    else:
        targets = [dataset_target(dataset or "", roots, split, out)]
    if images is not None:
        targets = [replace(target, out=spoilt_folder(target.out, images)) for target in targets]
    folder = ready_policy(policy or model or Path(), out, base)
    settings = (*(overrides or ()), *([] if prompts is None else [override("policy.prompt_set", prompts)]))
    request = Request(folder, tuple(targets), recipe, settings, device, gpus, max_samples, strict, images)
    failed, unscored = 0, list[str]()
    try:
        with progress_bar(Console(stderr=True)) as progress:
            for finished in run(request, progress):
                _tell(finished, len(targets))
                failed += finished.inferred.failed + (len(finished.scores.broken) if finished.scores else 0)
                if finished.unscored is not None:
                    unscored.append(f"{finished.target.benchmark.name} could not be scored: {finished.unscored}")
    except KeyboardInterrupt as e:
        typer.secho(f"Interrupted. What is finished is in {out}; the same command goes on from there.", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from e
    if unscored:
        raise DataError("; ".join([*unscored, "the results are kept: mend that and give the same command again"]))
    if failed:
        raise typer.Exit(EXIT_INCOMPLETE)


def ready_policy(folder: Path, out: Path, base: Path | None) -> Path:
    """The policy in our own layout; a released checkpoint is converted, once, into a folder beside ``out``."""
    from verl_ext.policy.released import convert_once, is_released

    if not is_released(folder):
        if base is not None:
            raise DataError(f"--base {base}: {folder} is no released checkpoint, it has its own; leave --base out")
        return folder
    return convert_once(folder, out.parent / "converted", base, lambda text: typer.echo(text, err=True))


def _tell(finished: Finished, count: int) -> None:
    from eval.results.failures import FAILED_FILE
    from eval.scores.files import scores_table

    def say(text: str) -> None:
        typer.echo(text, err=True)

    target, inferred = finished.target, finished.inferred
    for note in finished.notes:
        say(note)
    benchmark = target.benchmark
    if count > 1:
        typer.echo(f"\n{benchmark.name}")
    if inferred.dropped_bytes:
        say(
            f"{inferred.results}: a torn last line of {inferred.dropped_bytes} bytes was cut off, which a kill had left"
        )
    if inferred.restarts:
        say(f"{inferred.restarts} workers died and were replaced; what they had under way was done again")
    for line in finished.unreadable:
        typer.echo(line)
    if finished.scores is not None:
        typer.echo(scores_table(finished.scores))
    elif finished.unscored is not None:
        say(f"{inferred.done} results in {inferred.results} could not be scored; the reason stands at the end")
    elif target.official and benchmark.submission is not None:
        typer.echo(
            f"{inferred.done} results in {inferred.results}. {benchmark.name} has no public ground truth: pack them "
            f"for {benchmark.server or 'its server'} with\n  videoseg submit {inferred.results} --benchmark "
            f"{benchmark.name} --root {target.root}"
        )
    else:
        typer.echo(f"{inferred.done} results in {inferred.results}; there are no masks to score them against")
    if inferred.failed:
        typer.secho(
            f"{inferred.failed} expressions of {benchmark.name} failed: {target.out / FAILED_FILE} says why; the same "
            "command tries them again",
            fg=typer.colors.RED,
            err=True,
        )
