"""``videoseg report``, ``compare`` and ``submit``: what is made of results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rollout.errors import DataError
from verl_ext.cli.group import EXIT_INCOMPLETE

SHOWN = 3
RootOption = Annotated[Path, typer.Option(help="The data set's folder.")]


def report(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a training run, or of an evaluation.")],
    out: Annotated[Path | None, typer.Option(help="HTML file; default RUN_DIR/report.html.")] = None,
    root: Annotated[Path | None, typer.Option(help="Of an evaluation: the data set's folder, to draw frames.")] = None,
    shown: Annotated[
        int | None, typer.Option(help="Of an evaluation: so many best and worst clips are drawn; default 3.", min=1)
    ] = None,
    ceiling: Annotated[
        Path | None, typer.Option(help="Of an evaluation: ceiling_SPLIT.jsonl of `data check --ceiling`.")
    ] = None,
) -> None:
    """Write a report: one HTML page with tables, curves, clips and dialogues, that needs no network.

    Of a training run it shows curves, and of a finished quickstart its evaluations; of an evaluation (results.jsonl
    and scores.json) the scores, and the best and worst clips with every turn. A folder with several evaluations gets a
    page in each of them. Examples:

      videoseg report runs/quickstart

      videoseg report runs/eval/revos --root data/ReVOS

      videoseg report runs/eval/revos --ceiling data/ReVOS/ceiling_valid.jsonl
    """
    from eval.report.folder import evaluation_folders, report_folder

    folders = evaluation_folders(run_dir)
    if not folders or (run_dir not in folders and _is_training_run(run_dir)):
        from verl_ext.quickstart.report import write_report

        for option, value in (("--root", root), ("--shown", shown), ("--ceiling", ceiling)):
            if value is not None:
                raise DataError(f"{option}: belongs to an evaluation, and {run_dir} is none; leave it out")
        typer.echo(f"report: {write_report(run_dir, out or run_dir / 'report.html')}")
        return
    if len(folders) > 1 and any(value is not None for value in (out, root, ceiling)):
        names = ", ".join(folder.name for folder in folders)
        raise DataError(
            f"{run_dir}: holds {len(folders)} evaluations ({names}); give one of them with --out, --root or --ceiling"
        )
    for folder in folders:
        page = report_folder(folder, out or folder / "report.html", root, shown or SHOWN, ceiling=ceiling)
        typer.echo(f"report: {page}")


def compare(
    results_a: Annotated[Path, typer.Argument(help="results.jsonl of an evaluation, or the folder that holds it.")],
    results_b: Annotated[Path, typer.Argument(help="Another one of the same benchmark.")],
    root: RootOption,
    benchmark: Annotated[str | None, typer.Option(help="A benchmark's name (revos, mevis_u, ...) or its YAML.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Instead of a benchmark: J and F on any data set.")] = None,
    split: Annotated[str, typer.Option(help="With --dataset: one of its splits.")] = "valid",
    out: Annotated[Path | None, typer.Option(help="Folder for comparison.json, .csv and .html.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first annotation that is odd or cannot be used.")
    ] = False,
    most: Annotated[int, typer.Option(help="So many gains and losses are listed.", min=1)] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Set two results side by side: B less A overall, by group, by clip and by expression.

    The mean difference is paired; its interval comes from resampling clips. Exit code 3: some annotations cannot be
    used (their expressions count 0 on both sides). Examples:

      videoseg compare runs/cold_start/revos runs/rl/revos --benchmark revos --root data/ReVOS --out runs/compared
    """
    from rich.console import Console

    from eval.report.compare import compare_scores
    from eval.report.compare_files import comparison_json, comparison_table, write_comparison
    from eval.report.comparison import Side, build_comparison_report
    from eval.scores.benchmark import score_benchmark
    from verl_ext.evaluation.targets import one_benchmark, results_file
    from verl_ext.run.progress import progress_bar

    found = one_benchmark(benchmark, dataset, split)
    paths = [results_file(path) for path in (results_a, results_b)]
    with progress_bar(Console(stderr=True)) as progress:
        scores = [score_benchmark(path, found, root, strict=strict, progress=progress) for path in paths]
    titles = _titles(paths)
    comparison = compare_scores(scores[0], scores[1], (*found.groups, "type", "kind"))
    typer.echo(comparison_json(comparison, titles) if as_json else comparison_table(comparison, titles, most))
    if out is not None:
        write_comparison(comparison, titles, out)
        sides = (Side(titles[0], paths[0], scores[0]), Side(titles[1], paths[1], scores[1]))
        page = build_comparison_report(comparison, sides, found, root, out / "comparison.html")
        typer.echo(f"report: {page}", err=as_json)
    if broken := scores[0].broken:
        typer.echo(f"{len(broken)} annotations cannot be used: {', '.join(broken[:10])}", err=True)
        raise typer.Exit(EXIT_INCOMPLETE)


def submit(
    results: Annotated[
        Path, typer.Argument(help="results.jsonl of an evaluation or its folder; with --check, a submission.")
    ],
    benchmark: Annotated[
        str, typer.Option(help="A benchmark with a server (mevis_valid, ref_ytvos, ...) or its YAML.")
    ],
    root: RootOption,
    out: Annotated[
        Path | None, typer.Option(help="FILE.zip, or a folder; default BENCHMARK.zip by the results.")
    ] = None,
    fill_missing: Annotated[
        bool, typer.Option("--fill-missing", help="Hand in empty masks for expressions without a prediction.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a zip that is there.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only look through a submission that is there.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first clip that cannot be read.")] = False,
) -> None:
    """Pack results as a benchmark's server wants them; checked before it is written, and read again after.

    Exits with 1 if --check finds anything wrong, with 3 if annotations cannot be read: what they say is left out and
    listed. Examples:

      videoseg submit runs/eval/mevis_valid --benchmark mevis_valid --root data/MeViS --out mevis.zip

      videoseg submit mevis.zip --benchmark mevis_valid --root data/MeViS --check
    """
    from rich.console import Console

    from eval.benchmarks import load_benchmark
    from eval.submission import check_submission, write_submission
    from verl_ext.evaluation.targets import results_file
    from verl_ext.run.progress import progress_bar

    found = load_benchmark(benchmark)
    if check:
        for option, given in (("--out", out is not None), ("--fill-missing", fill_missing), ("--overwrite", overwrite)):
            if given:
                raise DataError(f"{option}: --check only looks, and writes nothing; leave one of the two out")
        with progress_bar(Console(stderr=True)) as progress:
            problems = check_submission(results, found, root, progress, strict=strict)
        typer.echo("\n".join(problems) or f"{results}: sound")
        raise typer.Exit(1 if problems else 0)
    path = results_file(results)
    target = out or path.parent / f"{found.name}.zip"
    with progress_bar(Console(stderr=True)) as progress:
        packed = write_submission(
            path, found, root, target, fill_missing=fill_missing, overwrite=overwrite, strict=strict, progress=progress
        )
    size = f"{packed.bytes / 1e6:.1f} MB"
    typer.echo(f"{packed.path}: {packed.files} files of {packed.expressions} expressions, {packed.clips} clips, {size}")
    if packed.filled:
        typer.echo(f"{len(packed.filled)} expressions have empty masks for want of a prediction: {packed.filled}")
    if found.server:
        typer.echo(f"for {found.server}")
    if packed.unread:
        why = "; ".join(f"{name}: {reason}" for name, reason in list(packed.unread.items())[:10])
        typer.echo(f"{len(packed.unread)} left out, as their annotations cannot be read: {why}", err=True)
        raise typer.Exit(EXIT_INCOMPLETE)


def _is_training_run(folder: Path) -> bool:
    """Whether it holds a run's own files, and evaluations only as parts of it."""
    from verl_ext.run.run_files import LIVE_METRICS, METRICS

    return any((folder / name).is_file() for name in ("summary.json", METRICS, LIVE_METRICS))


def _titles(paths: list[Path]) -> tuple[str, str]:
    """Each results file's folder, with as many of the folders above as tell the two apart."""
    parts = [path.absolute().parent.parts for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        a, b = ("/".join(p[-depth:]) for p in parts)
        if a != b:
            return a, b
    return paths[0].name, paths[1].name
