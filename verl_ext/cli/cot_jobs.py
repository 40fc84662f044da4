"""From the options of ``videoseg data cot`` to a job, and from its outcome to the screen."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from rollout.errors import DataError, RecipeError

if TYPE_CHECKING:
    from data_construction.cot.seed import SeedSettings
    from data_construction.cot.vts_plan import VTSSettings
    from data_construction.generate import Estimate, Job, Source, Summary
    from data_construction.vlm import ClientSettings, Ledger
    from rollout.types import Expression

EXIT_INCOMPLETE, EXIT_SIGINT, EXIT_SIGTERM = 1, 130, 143


@dataclass(frozen=True)
class Asked:
    """The options that both commands share, as the command line names them."""

    name: str
    root: Path
    split: str
    out: Path
    model: str
    base_url: str | None
    api_key_env: str
    workers: int
    threads: int
    limit: int | None
    only: Path | None
    again: Path | None
    attempts: int
    prices: tuple[float, float]
    max_cost: float | None
    cache: Path | None
    no_cache: bool
    timeout: float
    tries: int
    backoff: float
    max_tokens: int
    temperature: float
    structured: str

    def client(self) -> ClientSettings:
        from data_construction.vlm import ClientSettings, Prices

        return ClientSettings(
            model=self.model,
            base_url=self.base_url,
            api_key_env=self.api_key_env,
            concurrency=self.workers,
            timeout=self.timeout,
            attempts=self.tries,
            backoff=self.backoff,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            structured=self.structured,  # type: ignore[arg-type]
            prices=Prices(*self.prices),
            max_cost=self.max_cost,
        )

    def shaping(self, **more: Any) -> dict[str, Any]:
        """What a restart must have in common with the run that it continues."""
        return {"data": [self.name, self.split], "model": self.model, "temperature": self.temperature, **more}

    def source(self, **more: Any) -> Source:
        from data_construction.generate import Again, Source
        from data_construction.readers import open_dataset

        again = None if self.again is None else Again.of_folder(self.again, self.attempts)
        select = None if self.only is None else read_ids(self.only)
        dataset = open_dataset(self.name, self.root, self.split)
        return Source(dataset, limit=self.limit, select=select, again=again, **more)

    def job(self, method: Any, settings: dict[str, Any], **more: Any) -> Job:
        from data_construction.generate import Job

        cache = None if self.no_cache else self.cache or self.out / "cache"
        return Job(method, settings, self.out, self.client(), cache, self.threads, **more)


def read_ids(path: Path) -> frozenset[tuple[str, str]]:
    """(clip, expression id) of each line of a file of ids. Raises DataError naming the line that is none."""
    from data_construction.generate.journal import read_lines

    if not path.is_file():
        raise DataError(f"{path}: no such file; `videoseg data sample --ids` writes one")
    found = []
    for number, (_, line) in enumerate(read_lines(path), start=1):
        if "clip" not in line or "expression_id" not in line:
            raise DataError(f"{path}, line {number}: needs 'clip' and 'expression_id', found {sorted(line)}")
        found.append((str(line["clip"]), str(line["expression_id"])))
    return frozenset(found)


def has_target(expression: Expression) -> bool:
    return bool(expression.anno_ids)


def seed_job(asked: Asked, settings: SeedSettings, per_video: int) -> Job:
    """Expressions without a target are left out: the protocol has no answer for them (SPEC 3)."""
    from data_construction.cot.seed import METHOD, SeedMethod

    source = asked.source(wanted=has_target, per_clip=per_video, seed=settings.seed)
    return asked.job(SeedMethod(source, settings), asked.shaping(method=METHOD, **asdict(settings)))


def vts_job(asked: Asked, settings: VTSSettings, per_video: int | None) -> Job:
    from data_construction.cot.released import write_released
    from data_construction.cot.vts import METHOD, VTSMethod
    from data_construction.generate.folder import TRACES

    def finish(out: Path) -> None:
        write_released(out / TRACES, out)

    source = asked.source(per_clip=per_video, seed=settings.seed)
    shaping = asked.shaping(method=METHOD, **asdict(settings))
    return asked.job(VTSMethod(source, settings), shaping, finish=finish)


def vts_settings(
    recipe: Path | None, turns: str, recover: float, marks: bool, seed: int, max_chars: int
) -> VTSSettings:
    """Frame numbers, budgets and prompts from a recipe, or the published ones. Raises RecipeError."""
    from data_construction.cot.vts_plan import VTSSettings
    from rollout.environments.keyframe_exploration import ExplorationSettings

    try:
        weights = tuple(float(w) for w in turns.split(","))
    except ValueError as e:
        raise RecipeError(f"--turns {turns}: wants numbers with commas between, as 0.2,0.5,0.3") from e
    exploration = ExplorationSettings.preset("cold_start")
    if recipe is not None:
        from verl_ext.recipe import load_recipe
        from verl_ext.rollout_settings import environment_of

        name, values = environment_of(load_recipe(recipe, []))
        if name != "keyframe_exploration":
            raise RecipeError(
                f"{recipe}: trains in the environment {name}; multi-turn traces need keyframe_exploration"
            )
        exploration = ExplorationSettings.from_dict(values)
    settings = VTSSettings(exploration, weights, recover, marks, seed, max_chars)
    settings.traces()  # Names a wrong weight or share now rather than at the first item.
    return settings


def run(job: Job, dry_run: bool) -> None:
    """Do it, or say what it would take. Exits with 1 where not every item has its trace."""
    from rich.console import Console

    from data_construction.generate import estimate_job, run_job
    from verl_ext.cli.progress import progress_bar

    if dry_run:
        with progress_bar(Console(stderr=True)) as progress:
            estimate = estimate_job(job, progress)
        typer.echo(estimate_text(estimate, job))
        return
    with progress_bar(Console(stderr=True)) as progress:
        summary, ledger = run_job(job, progress)
    typer.echo(summary_text(summary, ledger, job.out))
    if "SIGINT" in summary.stopped:
        raise typer.Exit(EXIT_SIGINT)
    if "SIGTERM" in summary.stopped:
        raise typer.Exit(EXIT_SIGTERM)
    if not summary.complete:
        raise typer.Exit(EXIT_INCOMPLETE)


def estimate_text(estimate: Estimate, job: Job) -> str:
    e = estimate
    lines = [f"{e.items} items, {e.there} of them already there; {e.requests} requests"]
    lines.append(f"about {e.prompt_tokens:,} prompt tokens, at most {e.completion_tokens:,} of replies")
    if job.client.prices.known:
        lines.append(f"cost at most about {e.cost:,.2f} (at {job.client.prices.prompt:g} and "
                     f"{job.client.prices.completion:g} per million tokens)")  # fmt: skip
    else:
        lines.append("cost: give --prices PROMPT REPLY (per million tokens)")
    lines += [f"would be set aside: {n} {code}" for code, n in e.set_aside.most_common()]
    return "\n".join(lines)


def summary_text(summary: Summary, ledger: Ledger, out: Path) -> str:
    s = summary
    lines = [f"{out}: {s.there + s.made} of {s.items} traces ({s.made} made now) in {s.seconds:.0f} s"]
    lines.append(f"requests: {ledger.answered} answered, {ledger.cached} from the cache, "
                 f"{ledger.retried.total()} asked again{_reasons(ledger.retried)}")  # fmt: skip
    tokens = f"tokens: {ledger.usage.prompt_tokens:,} of prompts, {ledger.usage.completion_tokens:,} of replies"
    spent = f"; cost {ledger.usage.cost:.4f}, with earlier runs {ledger.spent:.4f}" if ledger.prices.known else ""
    lines.append(tokens + spent)
    if s.failed:
        lines.append(f"failed: {s.failed.total()}{_reasons(s.failed)}; see {out / 'failed.jsonl'}")
    if s.set_aside:
        lines.append(f"set aside, bad data: {s.set_aside.total()}{_reasons(s.set_aside)}; see {out / 'failed.jsonl'}")
    if s.stopped:
        lines.append(f"stopped: {s.stopped}; the same command goes on from here")
    return "\n".join(lines)


def _reasons(counts: Any) -> str:
    return f" ({', '.join(f'{n} {reason}' for reason, n in counts.most_common())})" if counts else ""
