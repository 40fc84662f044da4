"""From the options of ``videoseg data cot`` to a job, and from its outcome to the screen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from rollout.errors import DataError, RecipeError
from verl_ext.cli.cot_text import estimate_text, summary_text

if TYPE_CHECKING:
    from data_construction.cot.seed import SeedSettings
    from data_construction.cot.vts_plan import VTSSettings
    from data_construction.generate import Job, Source, Summary
    from data_construction.readers import Dataset
    from data_construction.vlm import ClientSettings
    from rollout.types import Expression
    from verl_ext.cli.cot_options import Place, Spending

EXIT_INCOMPLETE, EXIT_SIGINT, EXIT_SIGTERM = 1, 130, 143


@dataclass(frozen=True)
class Asked:
    """The options that both commands share, as the command line names them."""

    place: Place
    spending: Spending

    def client(self) -> ClientSettings:
        from data_construction.vlm import ClientSettings, Prices

        return ClientSettings(
            model=self.place.model,
            base_url=self.place.base_url,
            api_key_env=self.place.api_key_env,
            concurrency=self.spending.workers,
            timeout=self.spending.timeout,
            attempts=self.spending.tries,
            backoff=self.spending.backoff,
            temperature=self.spending.temperature,
            max_tokens=self.spending.max_tokens,
            structured=self.spending.structured,  # type: ignore[arg-type]
            prices=Prices(*self.spending.prices),
            max_cost=self.spending.max_cost,
        )

    def shaping(self, **more: Any) -> dict[str, Any]:
        """What a restart must have in common with the run that it continues."""
        return {
            "data": [self.place.name, self.place.split],
            "model": self.place.model,
            "temperature": self.spending.temperature,
            **more,
        }

    def source(self, **more: Any) -> Source:
        from data_construction.generate import Again, Source
        from data_construction.readers import open_dataset

        dataset = open_dataset(self.place.name, self.place.root, self.place.split)
        again = (
            None
            if self.spending.again is None
            else Again.of_folder(self.spending.again, self.spending.attempts, dataset)
        )
        select = None if self.spending.only is None else read_ids(self.spending.only, dataset)
        return Source(dataset, limit=self.spending.limit, select=select, again=again, **more)

    def job(self, method: Any, settings: dict[str, Any], **more: Any) -> Job:
        from data_construction.generate import Job

        cache = None if self.spending.no_cache else self.spending.cache or self.place.out / "cache"
        return Job(method, settings, self.place.out, self.client(), cache, self.spending.threads, **more)


def read_ids(path: Path, dataset: Dataset) -> frozenset[tuple[str, str]]:
    """(clip, expression id) of each line of a file of ids.

    Raises DataError naming the line that is none, or that names what the data set does not hold.
    """
    from data_construction.generate.journal import read_lines

    if not path.is_file():
        raise DataError(f"{path}: no such file; `videoseg data sample --ids` writes one")
    found = []
    for number, (_, line) in enumerate(read_lines(path), start=1):
        if "clip" not in line or "expression_id" not in line:
            raise DataError(f"{path}, line {number}: needs 'clip' and 'expression_id', found {sorted(line)}")
        clip, expression = str(line["clip"]), str(line["expression_id"])
        if clip not in dataset.index or expression not in dataset.index[clip].expressions:
            what = f"clip {clip!r}, expression {expression!r} is not in {dataset.name}, split {dataset.split}"
            raise DataError(f"{path}, line {number}: {what}, at {dataset.root}; sample from what you make traces of")
        found.append((clip, expression))
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
        from verl_ext.recipe.rollout_settings import environment_of

        name, values = environment_of(load_recipe(recipe, []))
        if name != "keyframe_exploration":
            raise RecipeError(
                f"{recipe}: trains in the environment {name}; multi-turn traces need keyframe_exploration"
            )
        exploration = ExplorationSettings.from_dict(values)
    settings = VTSSettings(exploration, weights, recover, marks, seed, max_chars)
    settings.traces()  # Names a wrong weight or share now rather than at the first item.
    return settings


def run(make: Callable[[], Job], dry_run: bool, again: Path | None = None) -> None:
    """Do it, or say what it would take. ``make`` gives the job; with ``again`` it is made anew after each round.

    Exits with 1 where not every item has its trace.
    """
    from rich.console import Console

    from data_construction.generate import estimate_job
    from verl_ext.run.progress import progress_bar

    job = make()
    if dry_run:
        with progress_bar(Console(stderr=True)) as progress:
            estimate = estimate_job(job, progress)
        typer.echo(estimate_text(estimate, job))
        return
    complete = _run_once(job).complete if again is None else _rounds(job, make, again)
    if not complete:
        raise typer.Exit(EXIT_INCOMPLETE)


def _rounds(job: Job, make: Callable[[], Job], folder: Path) -> bool:
    """Make what ``verify`` rejected, verify it as before, and so on until all is sound or has had its attempts."""
    from verl_ext.cli.verify_job import VerifyRequest, run_verify

    request, complete = VerifyRequest.again(folder), True
    made = request.traces if request.traces.is_dir() else request.traces.parent
    if made.resolve() != job.out.resolve():
        what = f"was verified from the traces in {made}, and --out is {job.out}"
        raise DataError(f"{folder}: {what}; give that as --out, or run `videoseg data verify {job.out} {folder}` first")
    if not len(job.method.source):
        typer.echo(f"{folder}: nothing there is to be made again")
    while len(job.method.source):
        summary = _run_once(job)
        complete = summary.complete and run_verify(request)
        if summary.stopped or not summary.made:
            break
        job = make()
    return complete


def _run_once(job: Job) -> Summary:
    """Raises typer.Exit if a signal stopped it."""
    from rich.console import Console

    from data_construction.generate import run_job
    from verl_ext.run.progress import progress_bar

    with progress_bar(Console(stderr=True)) as progress:
        summary, ledger = run_job(job, progress)
    typer.echo(summary_text(summary, ledger, job.out))
    if "SIGINT" in summary.stopped:
        raise typer.Exit(EXIT_SIGINT)
    if "SIGTERM" in summary.stopped:
        raise typer.Exit(EXIT_SIGTERM)
    return summary
