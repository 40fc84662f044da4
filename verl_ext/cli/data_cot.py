"""``videoseg data cot``: traces written by a vision-language model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Have a vision-language model write chain-of-thought traces.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="A data set's name (revos, mevis, ...) or its YAML file.")]
Root = Annotated[Path, typer.Argument(help="Its folder.")]
Out = Annotated[Path, typer.Option(help="Folder for the traces; the same command goes on where it stopped.")]
Model = Annotated[str, typer.Option(help="The model's name at the endpoint.")]
Split = Annotated[str, typer.Option(help="One of the data set's splits.")]
BaseUrl = Annotated[str | None, typer.Option(help="Endpoint, as http://host:8000/v1; default: OpenAI's own.")]
KeyEnv = Annotated[str, typer.Option(help="Environment variable that holds the key. It is never written anywhere.")]
Workers = Annotated[int, typer.Option(help="Requests in flight at most.", min=1)]
Threads = Annotated[int, typer.Option(help="Threads that decode, draw and encode frames.", min=1)]
Limit = Annotated[int | None, typer.Option(help="Only the first so many expressions.", min=1)]
Only = Annotated[Path | None, typer.Option(help="Only the ids in this file (of `data sample --ids`).")]
Again = Annotated[
    Path | None, typer.Option(help="Folder of `data verify`: make and verify anew what it rejected, in rounds.")
]
Attempts = Annotated[int, typer.Option(help="With --again: traces of one expression at most.", min=2)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say how many requests it takes and what they may cost.")]
Prices = Annotated[tuple[float, float], typer.Option(help="Per million tokens of prompts and of replies.")]
MaxCost = Annotated[float | None, typer.Option(help="Stop before more than this is spent, earlier runs included.")]
Cache = Annotated[Path | None, typer.Option(help="Folder of kept replies; default OUT/cache. May be shared.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Keep no replies.")]
Timeout = Annotated[float, typer.Option(help="Seconds for one attempt.", min=0.001)]
Tries = Annotated[int, typer.Option(help="Attempts while the endpoint is busy, failing or silent.", min=1)]
Backoff = Annotated[float, typer.Option(help="Seconds before the second attempt; doubles with each.", min=0)]
MaxTokens = Annotated[int, typer.Option(help="Tokens of a reply at most.", min=1)]
Temperature = Annotated[float, typer.Option(help="Of sampling.", min=0)]
Structured = Annotated[str, typer.Option(help="Ask for a JSON schema, an object, text; auto: the first that works.")]
MaxChars = Annotated[int, typer.Option(help="Characters of each step of the reasoning at most.", min=1)]
PerVideo = Annotated[int, typer.Option(help="Expressions of a video at most, drawn by --seed.", min=1)]
KEY = "OPENAI_API_KEY"


@app.command()
def seed(
    name: Name,
    root: Root,
    model: Model,
    out: Out,
    split: Split = "train",
    base_url: BaseUrl = None,
    api_key_env: KeyEnv = KEY,
    per_video: PerVideo = 10,
    frames: Annotated[int, typer.Option(help="Frames of a clip, at most.", min=2)] = 8,
    side: Annotated[int, typer.Option(help="Side of the square frames, in pixels.", min=28)] = 560,
    fps: Annotated[
        float | None, typer.Option(help="Of the frames on disk; default: what the data set says, else 1.")
    ] = None,
    workers: Workers = 32,
    threads: Threads = 2,
    limit: Limit = None,
    only: Only = None,
    again: Again = None,
    attempts: Attempts = 3,
    dry_run: DryRun = False,
    prices: Prices = (0.0, 0.0),
    max_cost: MaxCost = None,
    cache: Cache = None,
    no_cache: NoCache = False,
    timeout: Timeout = 180.0,
    tries: Tries = 6,
    backoff: Backoff = 1.0,
    max_tokens: MaxTokens = 1024,
    temperature: Temperature = 0.7,
    structured: Structured = "auto",
    max_chars: MaxChars = 600,
    random_seed: Annotated[int, typer.Option("--seed", help="The same seed plans the same traces.")] = 0,
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

    asked = Asked(
        name, root, split, out, model, base_url, api_key_env, workers, threads, limit, only, again, attempts, prices,
        max_cost, cache, no_cache, timeout, tries, backoff, max_tokens, temperature, structured,
    )  # fmt: skip
    settings = SeedSettings(frames, side, fps, random_seed, max_chars)
    run(lambda: seed_job(asked, settings, per_video), dry_run, again)


@app.command()
def vts(
    name: Name,
    root: Root,
    model: Model,
    out: Out,
    split: Split = "train",
    base_url: BaseUrl = None,
    api_key_env: KeyEnv = KEY,
    recipe: Annotated[
        Path | None, typer.Option(help="Recipe that will train on the traces; default: the published numbers.")
    ] = None,
    turns: Annotated[str, typer.Option(help="Weights of one, two, three turns.")] = "0.2,0.5,0.3",
    recover: Annotated[float, typer.Option(help="Share of longer traces that choose badly first.")] = 0.1,
    marks: Annotated[bool, typer.Option(help="Show the model red rectangles around the target.")] = True,
    per_video: Annotated[int | None, typer.Option(help="Expressions of a video at most, drawn by --seed.")] = None,
    workers: Workers = 32,
    threads: Threads = 2,
    limit: Limit = None,
    only: Only = None,
    again: Again = None,
    attempts: Attempts = 3,
    dry_run: DryRun = False,
    prices: Prices = (0.0, 0.0),
    max_cost: MaxCost = None,
    cache: Cache = None,
    no_cache: NoCache = False,
    timeout: Timeout = 180.0,
    tries: Tries = 6,
    backoff: Backoff = 1.0,
    max_tokens: MaxTokens = 1024,
    temperature: Temperature = 0.7,
    structured: Structured = "auto",
    max_chars: MaxChars = 600,
    random_seed: Annotated[int, typer.Option("--seed", help="The same seed plans the same traces.")] = 0,
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

    asked = Asked(
        name, root, split, out, model, base_url, api_key_env, workers, threads, limit, only, again, attempts, prices,
        max_cost, cache, no_cache, timeout, tries, backoff, max_tokens, temperature, structured,
    )  # fmt: skip
    settings = vts_settings(recipe, turns, recover, marks, random_seed, max_chars)
    run(lambda: vts_job(asked, settings, per_video), dry_run, again)
