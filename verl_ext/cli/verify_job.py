"""``videoseg data verify`` from its options to its last line."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from rollout.errors import DataError
from verl_ext.cli.trace_jobs import Pace
from verl_ext.run.progress import progress_bar

if TYPE_CHECKING:
    from data_construction.verify import VerifyReport, VerifySettings
    from data_construction.verify.judge import Opinion
    from data_construction.vlm import Client, Ledger

SPENT = "judge_spent.jsonl"


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

    def command(self) -> dict[str, Any]:
        """What it takes to make the same call from another folder; holds no key."""
        from data_construction.traces.sources import split_root

        roots = [split_root(given) for given in self.roots]
        return {
            "traces": str(self.traces.absolute()),
            "roots": [f"{name}={folder.absolute()}" if name else str(folder.absolute()) for name, folder in roots],
            "dataset": self.dataset,
            "split": self.split,
            "judge": None if self.judge is None else asdict(self.judge),
        }

    @staticmethod
    def again(out: Path) -> VerifyRequest:
        """The call that made the folder ``out``. Raises DataError if it does not say."""
        from data_construction.readers.files import read_json
        from data_construction.verify import VerifySettings
        from data_construction.verify.files import MANIFEST

        kept = read_json(out / MANIFEST)
        try:
            names = (f.name for f in fields(VerifySettings))
            settings = VerifySettings(**{**{name: kept[name] for name in names}, "skip": tuple(kept["skip"])})
            given, judge = kept["command"], None
            if given["judge"] is not None:
                judge = JudgeRequest(**{**given["judge"], "prices": tuple(given["judge"]["prices"])})
            traces, roots, of = Path(given["traces"]), tuple(given["roots"]), (given["dataset"], given["split"])
        except (KeyError, TypeError) as e:
            raise DataError(f"{out / MANIFEST}: does not say how the folder was made ({e}); verify it once more") from e
        return VerifyRequest(traces, out, roots, *of, settings, judge, 0.0, False, False)


def run_verify(r: VerifyRequest) -> bool:
    """True if every trace was judged and enough survived. Raises DataError, RecipeError, EndpointError."""
    from data_construction.verify.summary import summary_table

    begun = time.monotonic()
    report, ledger = asyncio.run(_verify(r))
    judged = None if ledger is None else judge_figures(ledger, time.monotonic() - begun)
    if r.as_json:
        typer.echo(json.dumps({**report.to_dict(), **({"judge": judged} if judged else {})}, indent=1))
    else:
        typer.echo(summary_table(report) + (judge_text(judged) if judged else ""), nl=not judged)
    enough = report.share >= r.min_share
    if not enough:
        what = f"{100 * report.share:.1f} % of {report.total} traces survive, less than {100 * r.min_share:.1f} %"
        typer.echo(f"{r.out}: {what}; see rejected.jsonl", err=True)
    return enough and report.complete


def judge_figures(ledger: Ledger, seconds: float) -> dict[str, Any]:
    """What the second model took in this run, and the money with earlier ones."""
    return {
        "seconds": round(seconds, 1),
        "answered": ledger.answered,
        "cached": ledger.cached,
        "asked_again": dict(ledger.retried.most_common()),
        "prompt_tokens": ledger.usage.prompt_tokens,
        "completion_tokens": ledger.usage.completion_tokens,
        "cost": round(ledger.usage.cost, 6) if ledger.prices.known else None,
        "cost_with_earlier_runs": round(ledger.spent, 6) if ledger.prices.known else None,
    }


def judge_text(figures: dict[str, Any]) -> str:
    f = figures
    cost = "" if f["cost"] is None else f"; cost {f['cost']:.4f}, with earlier runs {f['cost_with_earlier_runs']:.4f}"
    again = f", {sum(f['asked_again'].values())} asked again" if f["asked_again"] else ""
    return (
        f"judge: {f['answered']} answered, {f['cached']} from the cache{again} in {f['seconds']:.0f} s; "
        f"{f['prompt_tokens']:,} tokens of prompts, {f['completion_tokens']:,} of replies{cost}\n"
    )


async def _verify(r: VerifyRequest) -> tuple[VerifyReport, Ledger | None]:
    from rich.console import Console

    from data_construction.generate.spent import SpentFile
    from data_construction.traces import Sources, count_items, trace_files
    from data_construction.verify import verify

    source, sources = trace_files(r.traces), Sources.parse(r.roots, r.dataset, r.split)
    client = None if r.judge is None else _client(r.judge, r.out)
    judge = None if client is None else _Judge(client)
    name, in_flight = (r.judge.model, r.judge.workers) if r.judge else ("", 1)
    ledger = None if client is None else client.ledger
    try:
        with SpentFile(r.out / SPENT) if ledger else nullcontext() as spent, progress_bar(Console(stderr=True)) as bar:
            if client is not None and spent is not None:
                client.health.served = spent.keep(client.ledger)
            pace = Pace(bar, count_items(source), ledger)
            report = await verify(
                source, r.out, sources, r.settings, judge, name, in_flight, r.overwrite, pace, r.command()
            )
        return report, ledger
    finally:
        if client is not None:
            await client.close()


def _client(r: JudgeRequest, out: Path) -> Client:
    from data_construction.vlm import Client, ClientSettings, Prices, ResponseCache

    settings = ClientSettings(
        model=r.model,
        base_url=r.base_url,
        api_key_env=r.api_key_env,
        concurrency=r.workers,
        temperature=0.0,
        max_tokens=512,
        reply_attempts=2,
        prices=Prices(*r.prices),
        max_cost=r.max_cost,
    )
    return Client(settings, ResponseCache(out / "judge_cache"))


class _Judge:
    """The client as ``verify`` wants it."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def opinion(self, messages: Sequence[dict[str, Any]]) -> Opinion:
        from data_construction.verify.judge import SCHEMA, read_opinion
        from data_construction.vlm import Prompt

        return (await self.client.ask(Prompt(messages, SCHEMA, read_opinion, _tokens(messages)))).value

    def stop(self) -> None:
        self.client.stop()


def _tokens(messages: Sequence[dict[str, Any]]) -> int:
    """Rough, for the spend cap."""
    from data_construction.verify.judge import BUDGET

    content = messages[-1]["content"]
    words = sum(len(part.get("text", "")) for part in content) + len(str(messages[0]["content"]))
    return words // 3 + sum(part["type"] == "image_url" for part in content) * (BUDGET + 2)
