"""``videoseg data verify`` from its options to its last line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from verl_ext.cli.progress import progress_bar
from verl_ext.cli.trace_jobs import paced

if TYPE_CHECKING:
    from data_construction.verify import VerifyReport, VerifySettings


@dataclass(frozen=True)
class JudgeRequest:
    """The second model of ``videoseg data verify``."""

    model: str
    base_url: str | None
    api_key_env: str
    workers: int
    prices: tuple[float, float]
    max_cost: float | None


@dataclass(frozen=True)
class VerifyRequest:
    """The options of ``videoseg data verify``."""

    traces: Path
    out: Path
    roots: tuple[str, ...]
    dataset: str
    split: str
    settings: VerifySettings
    judge: JudgeRequest | None
    min_share: float
    overwrite: bool
    as_json: bool


def run_verify(r: VerifyRequest) -> bool:
    """True if every trace could be judged and enough survived. Raises DataError, RecipeError, EndpointError."""
    from data_construction.verify.summary import summary_table

    report = asyncio.run(_verify(r))
    typer.echo(json.dumps(report.to_dict(), indent=1) if r.as_json else summary_table(report))
    enough = report.share >= r.min_share
    if not enough:
        what = f"{100 * report.share:.1f} % of {report.total} traces survive, less than {100 * r.min_share:.1f} %"
        typer.echo(f"{r.out}: {what}; see rejected.jsonl", err=True)
    return enough and not report.set_aside


async def _verify(r: VerifyRequest) -> VerifyReport:
    from rich.console import Console

    from data_construction.traces import Sources, trace_files
    from data_construction.verify import verify

    source, sources = trace_files(r.traces), Sources.parse(r.roots, r.dataset, r.split)
    client = None if r.judge is None else _client(r.judge, r.out)
    judge = None if client is None else _Judge(client)
    name, in_flight = (r.judge.model, r.judge.workers) if r.judge else ("", 1)
    try:
        with progress_bar(Console(stderr=True)) as progress:
            return await verify(
                source, r.out, sources, r.settings, judge, name, in_flight, r.overwrite,
                paced(progress, source, client.ledger if client else None),
            )  # fmt: skip
    finally:
        if client is not None:
            await client.close()


def _client(r: JudgeRequest, out: Path) -> Any:
    from data_construction.vlm import Client, ClientSettings, Prices, ResponseCache

    settings = ClientSettings(
        model=r.model,
        base_url=r.base_url,
        api_key_env=r.api_key_env,
        concurrency=r.workers,
        temperature=0.0,
        max_tokens=512,
        prices=Prices(*r.prices),
        max_cost=r.max_cost,
    )
    return Client(settings, ResponseCache(out / "judge_cache"))


class _Judge:
    """The client as ``verify`` wants it: text in, text out."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def complete(self, messages: Sequence[dict[str, Any]]) -> str:
        from data_construction.verify.judge import SCHEMA
        from data_construction.vlm import GaveUpError, Prompt

        try:
            return str((await self.client.ask(Prompt(messages, SCHEMA, json.dumps, _tokens(messages)))).value)
        except GaveUpError as e:
            if e.server_down:
                raise
            return json.dumps({"verdict": "reject", "reason": f"the judge gave no verdict: {e}"})


def _tokens(messages: Sequence[dict[str, Any]]) -> int:
    """Rough, for the spend cap."""
    from data_construction.verify.judge import BUDGET

    content = messages[-1]["content"]
    words = sum(len(part.get("text", "")) for part in content) + len(str(messages[0]["content"]))
    return words // 3 + sum(part["type"] == "image_url" for part in content) * (BUDGET + 2)
