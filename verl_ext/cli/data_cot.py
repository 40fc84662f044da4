"""``videoseg data cot``: traces written by a vision-language model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from verl_ext.cli.cot_options import Place, Spending
from verl_ext.cli.options import with_shared_options

app = typer.Typer(help="Have a vision-language model write chain-of-thought traces.", no_args_is_help=True)

PerVideo = typer.Option(help="Expressions of a video at most, drawn by --seed.", min=1)


@app.command()
@with_shared_options
def seed(
    place: Place,
    *,
    per_video: Annotated[int, PerVideo] = 10,
    frames: Annotated[int, typer.Option(help="Frames of a clip, at most.", min=2)] = 8,
    side: Annotated[int, typer.Option(help="Side of the square frames, in pixels.", min=28)] = 560,
    fps: Annotated[
        float | None, typer.Option(help="Of the frames on disk; default: what the data set says, else 1.")
    ] = None,
    spending: Spending,
) -> None:
    """Veason-R1's seed traces: one turn, a keyframe, its boxes and three steps of reasoning.

    Ground truth gives keyframe and boxes, the model writes the reasoning. Of clips with more than one frame a second
    one a second is taken. Writes OUT/traces.jsonl as it goes and what could not be made to OUT/failed.jsonl; exits with
    1 if anything is there. Examples:

      videoseg data cot seed revos data/ReVOS --model gpt-5 --out runs/seed --dry-run --prices 1.25 10

      videoseg data cot seed revos data/ReVOS --model Qwen3-VL --base-url http://127.0.0.1:8000/v1 --out runs/seed
    """
    from data_construction.cot.seed import SeedSettings
    from verl_ext.cli.cot_jobs import Asked, run, seed_job

    asked = Asked(place, spending)
    settings = SeedSettings(frames, side, fps, spending.random_seed, spending.max_chars)
    run(lambda: seed_job(asked, settings, per_video), spending.dry_run, spending.again)


@app.command()
@with_shared_options
def vts(
    place: Place,
    *,
    recipe: Annotated[
        Path | None, typer.Option(help="Recipe that will train on the traces; default: the published numbers.")
    ] = None,
    turns: Annotated[str, typer.Option(help="Weights of one, two, three turns.")] = "0.2,0.5,0.3",
    recover: Annotated[float, typer.Option(help="Share of longer traces that choose badly first.")] = 0.1,
    marks: Annotated[bool, typer.Option(help="Show the model red rectangles around the target.")] = True,
    per_video: Annotated[int | None, typer.Option(help="Expressions of a video at most, drawn by --seed.")] = None,
    spending: Spending,
) -> None:
    """VideoSEG-O3's multi-turn traces with decoupled thinking (VTS-CoT).

    Ground truth decides each turn's interval and keyframe; the model, shown just the frames of that turn, writes the
    reasoning. Writes OUT/traces.jsonl as it goes, then OUT/vts_cot.json and OUT/rl_annotations.json as released; what
    could not be made is in OUT/failed.jsonl, and the exit code is then 1. Examples:

      videoseg data cot vts revos data/ReVOS --model gpt-5 --out runs/vts --prices 1.25 10 --max-cost 50

      videoseg data cot vts revos runs/data --model tiny --base-url http://127.0.0.1:8000/v1 --out runs/vts
      --recipe recipes/quickstart/cold_start.yaml
    """
    from verl_ext.cli.cot_jobs import Asked, run, vts_job, vts_settings

    asked = Asked(place, spending)
    settings = vts_settings(recipe, turns, recover, marks, spending.random_seed, spending.max_chars)
    run(lambda: vts_job(asked, settings, per_video), spending.dry_run, spending.again)
