"""The options that both commands of ``videoseg data cot`` share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

KEY = "OPENAI_API_KEY"


@dataclass(frozen=True)
class Place:
    """What is asked about, and whom."""

    name: Annotated[str, typer.Argument(help="A data set's name (revos, mevis, ...) or its YAML file.")]
    root: Annotated[Path, typer.Argument(help="Its folder.")]
    model: Annotated[str, typer.Option(help="The model's name at the endpoint.")]
    out: Annotated[Path, typer.Option(help="Folder for the traces; the same command goes on where it stopped.")]
    split: Annotated[str, typer.Option(help="One of the data set's splits.")] = "train"
    base_url: Annotated[str | None, typer.Option(help="Endpoint, as http://host:8000/v1; default: OpenAI's own.")] = (
        None
    )
    api_key_env: Annotated[
        str, typer.Option(help="Environment variable that holds the key. It is never written anywhere.")
    ] = KEY


@dataclass(frozen=True)
class Spending:
    """How much is asked for, how fast, and at what cost."""

    workers: Annotated[int, typer.Option(help="Requests in flight at most.", min=1)] = 32
    threads: Annotated[int, typer.Option(help="Threads that decode, draw and encode frames.", min=1)] = 2
    limit: Annotated[int | None, typer.Option(help="Only the first so many expressions.", min=1)] = None
    only: Annotated[Path | None, typer.Option(help="Only the ids in this file (of `data sample --ids`).")] = None
    again: Annotated[
        Path | None, typer.Option(help="Folder of `data verify`: make and verify anew what it rejected, in rounds.")
    ] = None
    attempts: Annotated[int, typer.Option(help="With --again: traces of one expression at most.", min=2)] = 3
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say how many requests it takes and what they may cost.")
    ] = False
    prices: Annotated[tuple[float, float], typer.Option(help="Per million tokens of prompts and of replies.")] = (
        0.0,
        0.0,
    )
    max_cost: Annotated[
        float | None, typer.Option(help="Stop before more than this is spent, earlier runs included.")
    ] = None
    cache: Annotated[Path | None, typer.Option(help="Folder of kept replies; default OUT/cache. May be shared.")] = None
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Keep no replies.")] = False
    timeout: Annotated[float, typer.Option(help="Seconds for one attempt.", min=0.001)] = 180.0
    tries: Annotated[int, typer.Option(help="Attempts while the endpoint is busy, failing or silent.", min=1)] = 6
    backoff: Annotated[float, typer.Option(help="Seconds before the second attempt; doubles with each.", min=0)] = 1.0
    max_tokens: Annotated[int, typer.Option(help="Tokens of a reply at most.", min=1)] = 1024
    temperature: Annotated[float, typer.Option(help="Of sampling.", min=0)] = 0.7
    structured: Annotated[
        str, typer.Option(help="Ask for a JSON schema, an object, text; auto: the first that works.")
    ] = "auto"
    max_chars: Annotated[int, typer.Option(help="Characters of each step of the reasoning at most.", min=1)] = 600
    random_seed: Annotated[int, typer.Option("--seed", help="The same seed plans the same traces.")] = 0
