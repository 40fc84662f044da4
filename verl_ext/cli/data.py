"""``videoseg data``: make and check data sets; its other commands are in files of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Make, check and sample data sets; make, verify and show traces.", no_args_is_help=True)
HABITS = ("middle_habit", "wrong_interval", "wrong_name", "wrong_twin")
SYNTHETIC_ONLY = ("train", "valid", "test", "frames", "size", "world", *HABITS)
LAYOUT_ONLY = ("clips",)


@app.command()
def synthetic(
    context: typer.Context,
    root: Annotated[Path, typer.Argument(help="Folder to make.")],
    train: Annotated[int, typer.Option(help="Clips of the train split.", min=0)] = 48,
    valid: Annotated[int, typer.Option(help="Clips of the valid split.", min=0)] = 12,
    test: Annotated[int, typer.Option(help="Clips of the test split.", min=0)] = 12,
    frames: Annotated[
        tuple[int, int] | None, typer.Option(help="Fewest and most frames of a clip; default: the world's.")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Side of the square frames in pixels; default: the world's.")] = None,
    world: Annotated[
        str,
        typer.Option(
            help="shapes: every frame shows what is asked for. badges: only a close look at the right one. twins: "
            "pairs of like discs, and only the mask says which one."
        ),
    ] = "shapes",
    middle_habit: Annotated[
        float, typer.Option(help="Traces: share with the keyframe at the middle of a too wide interval.")
    ] = 0.0,
    wrong_interval: Annotated[float, typer.Option(help="Traces: share whose first interval is anywhere.")] = 0.0,
    wrong_name: Annotated[float, typer.Option(help="Traces: share that reason about a wrong object.")] = 0.0,
    wrong_twin: Annotated[
        float,
        typer.Option(help="Traces: share, of those on the second of two like objects, with the first one's masks."),
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="The same seed and numbers give the same files.")] = 0,
    layout: Annotated[
        str | None, typer.Option(help="Instead: a few small clips in this data set's published layout (mevis, ...).")
    ] = None,
    clips: Annotated[int, typer.Option(help="With --layout: clips of every split.", min=1)] = 3,
) -> None:
    """Make a synthetic RVOS data set in ReVOS layout, with ground truth, RL annotations and VTS-CoT traces.

    Examples:

      videoseg data synthetic data/synthetic

      videoseg data synthetic data/longer --train 200 --frames 24 48 --seed 3

      videoseg data synthetic data/exploring --world badges --train 400 --middle-habit 0.5

      videoseg data synthetic data/twins --world twins --train 400 --wrong-twin 0.6

      videoseg data synthetic data/small_mevis --layout mevis
    """
    from rich.console import Console

    _refuse_unused(context, LAYOUT_ONLY if layout is None else SYNTHETIC_ONLY, layout)
    if layout is not None:
        from data_construction.layouts import write_layout

        written = write_layout(layout, root, seed=seed, clips=clips)
        Console().print(f"{root}: written: {layout}, clips " + ", ".join(f"{n} {s}" for s, n in written.items()))
        return

    from data_construction.cot import TraceSettings
    from data_construction.synthetic import make_synthetic
    from verl_ext.run.progress import progress_bar

    console = Console()
    wanted = {split: n for split, n in (("train", train), ("valid", valid), ("test", test)) if n}
    with progress_bar(console, pace=True) as progress:
        traces = TraceSettings(
            middle_habit=middle_habit, wrong_interval=wrong_interval, noise=wrong_name, wrong_twin=wrong_twin
        )
        report = make_synthetic(
            root, clips=wanted, seed=seed, frames=frames, size=size, traces=traces, progress=progress, world=world
        )
    counts = ", ".join(f"{n} {split}" for split, n in report.clips.items())
    done = "was there already" if report.reused else "written"
    console.print(f"{root}: {done}: clips {counts}; {report.frames} frames, {report.traces} traces")


def _refuse_unused(context: typer.Context, names: tuple[str, ...], layout: str | None) -> None:
    """Raise typer.BadParameter for an option that would be without effect beside (or without) --layout."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            what = "needs --layout" if layout is None else f"has no effect with --layout {layout}, which takes --clips"
            raise typer.BadParameter(what, param_hint=f"--{name.replace('_', '-')}")


@app.command()
def oracles(
    root: Annotated[Path, typer.Argument(help="A synthetic data set of a world that wants a closer look.")],
    split: Annotated[str, typer.Option(help="Whose expressions are asked; the readers learn from train.")] = "test",
    budgets: Annotated[
        tuple[int, int, int],
        typer.Option(help="Pixel budgets of temporal, spatial and key frames, in units of 28 x 28."),
    ] = (6, 21, 84),
    frames: Annotated[tuple[int, int], typer.Option(help="Temporal and spatial frames of the first message.")] = (
        10,
        5,
    ),
    train_clips: Annotated[int, typer.Option(help="Clips that the readers learn from, at most.", min=1)] = 150,
    steps: Annotated[int, typer.Option(help="Training steps of each reader, at most.", min=1)] = 400,
    seed: Annotated[int, typer.Option(help="Of the readers and of what is drawn.")] = 0,
    out: Annotated[Path | None, typer.Option("--json", help="Write the figures here as well.")] = None,
) -> None:
    """Prove a world before anything is trained in it: J&F of answers that see more or less than a policy does.

    Small readers are trained on what is really shown at each pixel budget. Exits with 1 unless the right keyframe is
    at least 20 J&F above the next best answer: then exploring is not what earns J&F there. Examples:

      videoseg data oracles data/exploring --json runs/oracles.json

      videoseg data oracles data/exploring --budgets 6 6 84 --frames 8 2
    """
    from rich.console import Console

    from eval.oracles import OracleSettings, measure_oracles
    from eval.oracles.table import oracle_table
    from verl_ext.run.progress import progress_bar

    low_res, spatial, keyframe = budgets
    settings = OracleSettings(low_res, spatial, keyframe, *frames, train_clips=train_clips, steps=steps, seed=seed)
    with progress_bar(Console(stderr=True), pace=True) as progress:
        report = measure_oracles(root, split, settings, progress)
    typer.echo(oracle_table(report))
    if out is not None:
        from data_construction.atomic import write_json

        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, report.to_dict())
    if not report.pays:
        raise typer.Exit(1)


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="A data set's name (revos, mevis, ...) or its YAML file.")],
    root: Annotated[Path, typer.Argument(help="Its folder.")],
    split: Annotated[list[str] | None, typer.Option(help="Only this split; may be repeated.")] = None,
    frames: Annotated[str, typer.Option(help="Look at frames: decode, exist or none.")] = "decode",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    draw: Annotated[int, typer.Option(help="Draw so many samples of each split as pictures.", min=0)] = 0,
    out: Annotated[Path, typer.Option(help="With --draw: where to.")] = Path("check_pictures"),
    manifest: Annotated[
        Path | None, typer.Option(help="Write every file's size and SHA-256 here, if the data set is sound.")
    ] = None,
    verify_manifest: Annotated[Path | None, typer.Option(help="Compare the files with such a manifest.")] = None,
    ceiling: Annotated[
        bool, typer.Option("--ceiling", help="Also measure what the segmenter reaches from true prompts.")
    ] = False,
    policy: Annotated[
        Path | None, typer.Option(help="With --ceiling: a [SEG] policy, whose segmenter and head are measured.")
    ] = None,
    segmenter: Annotated[Path | None, typer.Option(help="With --ceiling: weights of SAM 2 or SAM 3.")] = None,
    preset: Annotated[str, typer.Option(help="With --segmenter: which one it is.")] = "sam2.1_hiera_l",
    device: Annotated[str, typer.Option(help="With --ceiling: cpu or cuda.")] = "cpu",
    ceiling_out: Annotated[
        Path | None, typer.Option(help="With --ceiling: folder for ceiling_SPLIT.jsonl; default ROOT.")
    ] = None,
) -> None:
    """Check a data set: every frame, mask and annotation, and ground truth scored against itself.

    Exits with 1 if anything is wrong; each problem names file, clip and frame. Examples:

      videoseg data check revos data/ReVOS

      videoseg data check revos data/synthetic --split valid --json

      videoseg data check mevis data/MeViS --draw 3 --manifest mevis.manifest

      videoseg data check mevis data/MeViS --frames none --verify-manifest mevis.manifest

      videoseg data check revos data/ReVOS --ceiling --segmenter sam2.1_hiera_large.pt --device cuda
    """
    from rich.console import Console

    from data_construction.check import check_dataset
    from data_construction.check_extras import draw_splits, verify
    from data_construction.check_manifest import write_manifest
    from verl_ext.cli.ceiling_job import CeilingRequest, add_ceilings
    from verl_ext.run.progress import progress_bar

    wanted = CeilingRequest(ceiling, policy, segmenter, preset, device, ceiling_out or root)
    wanted.check()
    if frames not in ("decode", "exist", "none"):
        raise typer.BadParameter(f"{frames!r}: wants decode, exist or none", param_hint="--frames")
    notes: list[str] = []
    with progress_bar(Console(stderr=True), pace=True) as progress:
        report = check_dataset(name, root, splits=split or None, frames=frames, progress=progress)  # type: ignore[arg-type]
        if draw:
            notes.append(draw_splits(report, draw, out))
        if ceiling:
            notes += add_ceilings(report, wanted, progress)
        if verify_manifest is not None:
            notes.append(verify(report, verify_manifest, progress))
        if manifest is not None and report.ok:
            notes.append(f"{manifest}: {write_manifest(root, manifest, name, progress)} files")
        elif manifest is not None:
            notes.append(f"{manifest}: not written, as the data set has problems")
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=1))
    else:
        typer.echo("\n".join([report.table().rstrip("\n"), *notes]))
    if not report.ok:
        raise typer.Exit(1)
