"""Run the stages one after another, say where it is, and sum up."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_construction.atomic import write_whole
from rollout.errors import EnvironmentMismatchError, RecipeError
from rollout.ray_env import socket_problem
from verl_ext.quickstart.memory import PeakMemory
from verl_ext.quickstart.settings import Layout, QuickstartSettings, recipe_file

if TYPE_CHECKING:
    from rich.console import Console

STAGE_TITLES = {"cold_start": "after the cold start", "rl": "after RL"}


def run_quickstart(
    out: Path, seed: int, console: Console, settings: QuickstartSettings | None = None
) -> dict[str, Any]:
    """Data, policy, cold start, RL, evaluation, report; returns what ``summary.json`` holds.

    A second call with the same folder goes on where the first stopped, and does nothing twice.

    Raises:
        RecipeError: the folder holds another quickstart's results, or is a file.
        EnvironmentMismatchError: no GPU is here for ``device: cuda``, or the temporary folder's path is too long for
            Ray's sockets.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads cost 5-20x,
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # and on operations this small a second one costs half as much again
    from verl_ext.quickstart import evaluation, stages
    from verl_ext.quickstart.report import write_report
    from verl_ext.quickstart.summary import summarise

    settings = settings or QuickstartSettings()
    layout = Layout(Path(out).resolve())
    if layout.out.exists() and not layout.out.is_dir():
        raise RecipeError(f"{layout.out}: is a file; give --out a folder")
    if settings.device == "cuda":
        check_gpu()
    layout.out.mkdir(parents=True, exist_ok=True)
    check_continues(layout, seed, settings)
    if problem := socket_problem():  # else it is found minutes later, when Ray starts
        raise EnvironmentMismatchError(problem)
    clock = StageClock(layout.out / "seconds.json", console)
    there = stages.what_is_there(layout)
    names = stage_names(settings)
    with clock.stage(names["data"], there["data"]) as progress:
        stages.make_data(layout, settings, seed, progress)
    with clock.stage(names["policy"], there["policy"]) as progress:
        stages.build_policy(layout, settings, seed, progress)
    if "segmentation" in names:
        with clock.stage(names["segmentation"], there["segmentation"]) as progress:
            stages.segmentation(layout, settings, seed, progress)
    with clock.stage(names["cold_start"], there["cold_start"]) as progress:
        cold = stages.cold_start(layout, settings, seed, progress)
    with clock.stage(names["rl"], there["rl"]) as progress:
        trained = stages.reinforce(layout, settings, seed, progress)
    policies = {"untrained": layout.untrained, "cold_start": cold, "rl": trained}
    with clock.stage(names["evaluation"], there["evaluation"]) as progress:
        scores = evaluation.evaluate_stages(layout, settings, seed, policies, progress)
    summary = summarise(layout, scores, settings) | run_facts(seed, settings)
    with clock.stage(names["report"], layout.report.exists()):
        write_summary(layout, summary, clock)
        write_report(layout.out, layout.report)
    write_summary(layout, summary, clock)  # once more, with the time of the report itself
    _tell(console, layout, summary, scores)
    return summary


def stage_names(settings: QuickstartSettings) -> dict[str, str]:
    """What is said of each stage, in order and numbered."""
    titles = {
        "data": "synthetic clips",
        "policy": "tiny policy and its SAM 2",
        "segmentation": "segmentation: what a [SEG] state must say",
        "cold_start": "cold start: the dialogue, from traces",
        "rl": "reinforcement: GRPO",
        "evaluation": "evaluation",
        "report": "report",
    }
    if "segmentation.yaml" not in settings.stages:
        del titles["segmentation"]
    return {name: f"{i}/{len(titles)} {title}" for i, (name, title) in enumerate(titles.items(), 1)}


def check_gpu() -> None:
    """Raises EnvironmentMismatchError where torch finds no GPU: vLLM would say so minutes later."""
    import torch

    if not torch.cuda.is_available():
        raise EnvironmentMismatchError(
            "--device cuda: torch finds no GPU here; leave it out for the CPU, or see videoseg doctor"
        )


def check_continues(layout: Layout, seed: int, settings: QuickstartSettings) -> None:
    """Results of another seed, device, method or world must not be taken for this one's.

    Raises:
        RecipeError: the folder holds them.
    """
    file = layout.out / "quickstart.json"
    facts: dict[str, Any] = {"seed": seed, "device": settings.device}
    if settings.method != QuickstartSettings().method:
        facts["method"] = settings.method
    if settings.world != QuickstartSettings().world:
        facts["world"] = settings.world
    before = json.loads(file.read_text()) if file.is_file() else facts
    if before != facts:
        said = [", ".join(f"{k} {v}" for k, v in f.items()) for f in (before, facts)]
        raise RecipeError(
            f"{layout.out}: holds the quickstart of {said[0]}, asked for is {said[1]}; give another --out, or remove it"
        )
    write_whole(file, json.dumps(facts) + "\n")


def run_facts(seed: int, settings: QuickstartSettings) -> dict[str, Any]:
    """What a reader of figures must know to tell whether they are those of another run."""
    from eval.scores.info import versions  # a checkout on a cluster's path need not be installed
    from verl_ext.doctor.facts import PROJECT

    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"seed": seed, "date": now, "version": versions(PROJECT)[PROJECT], "settings": settings_facts(settings)}


def settings_facts(settings: QuickstartSettings) -> dict[str, Any]:
    """All that decides on the figures beside the seed, as JSON would give it back: settings, and the recipes' mark."""
    recipes = recipe_file("grpo.yaml").parents[1]
    own = {str(Path(path).parent) for _, path in settings.recipes} or {"quickstart"}
    files = [file for folder in ("bases", *sorted(own)) for file in sorted((recipes / folder).glob("*.yaml"))]
    mark = hashlib.blake2b(b"\0".join(f.read_bytes() for f in files), digest_size=8).hexdigest()
    facts: dict[str, Any] = json.loads(json.dumps(asdict(settings) | {"recipes": mark}))
    return facts


def write_summary(layout: Layout, summary: dict[str, Any], clock: StageClock) -> None:
    """Bring ``summary`` up to date with the clock, and write it."""
    summary |= {"seconds": round(clock.total, 1), "stage_seconds": clock.seconds}
    summary |= {"peak_memory_gib": round(clock.peak_memory, 2)}
    write_whole(layout.summary, json.dumps(summary, indent=1) + "\n")


class StageClock:
    """Times the stages, shows their bars, samples memory, and remembers all of it over restarts."""

    def __init__(self, path: Path, console: Console) -> None:
        self._path, self._console = path, console
        known = json.loads(path.read_text()) if path.exists() else {}
        self.seconds: dict[str, float] = known.get("seconds", {})
        self._peaks: dict[str, float] = known.get("peak_gib", {})
        self._finished: list[str] = known.get("finished", [])

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    @property
    def peak_memory(self) -> float:
        """GiB, over all stages and restarts."""
        return max(self._peaks.values(), default=0.0)

    @contextmanager
    def stage(self, title: str, there: bool = False) -> Iterator[Any]:
        """A bar with what is being done; time and memory are added to what an interrupted run spent before.

        A stage whose result is ``there`` only looks at it: its time was counted when it was made. A finished one whose
        result is gone begins at zero.
        """
        from verl_ext.run.progress import progress_bar

        again = there and title in self._finished
        before = 0.0 if title in self._finished else self.seconds.get(title, 0.0)
        began = time.perf_counter()
        self._console.print(f"[bold]{title}[/bold]")
        memory = PeakMemory()
        try:
            with memory, progress_bar(self._console) as bar:
                yield bar
            self._finished += [] if title in self._finished else [title]
        finally:
            spent = time.perf_counter() - began
            if not again:
                self.seconds[title] = round(before + spent, 1)
            self._peaks[title] = max(self._peaks.get(title, 0.0), round(memory.gib, 3))
            known = {"seconds": self.seconds, "peak_gib": self._peaks, "finished": self._finished}
            write_whole(self._path, json.dumps(known))
        self._console.print("    was there already" if again else f"    done in {spent:.0f} s")


def _tell(console: Console, layout: Layout, summary: dict[str, Any], scores: dict[str, Any]) -> None:
    from rich.table import Table

    from verl_ext.quickstart.summary import first_policy
    from verl_ext.run.gains import gain_in_words

    table = Table(title="J&F on held-out clips")
    table.add_column("expressions")
    titles = {"untrained": first_policy(summary), **STAGE_TITLES}
    for stage in (*(titles[name] for name in scores), "predict nothing"):
        table.add_column(stage, justify="right")
    table.add_row("all", *(f"{found.jf:.1f}" for found in scores.values()), _nothing(scores["rl"].overall))
    for kind in sorted(scores["rl"].by_kind):
        groups = [found.by_kind[kind] for found in scores.values()]
        table.add_row(kind, *(f"{g.metrics['jf'].mean:.1f}" for g in groups), _nothing(groups[-1]))
    console.print(table)
    on_taught = ""
    if summary["jf_taught_gain"] is not None:
        on_taught = f" ({gain_in_words(summary, 'jf_taught')} on taught kinds)"
    console.print(
        f"held-out reward {summary['reward_first']:.2f} -> {summary['reward_last']:.2f} "
        f"(gain {gain_in_words(summary, 'reward', 2)} over the same prompts), "
        f"J&F by RL {gain_in_words(summary, 'jf')}{on_taught}, "
        f"format of greedy dialogues {summary['format_cold_start']:.2f} -> {summary['format_rl']:.2f}; "
        f"{summary['seconds'] / 60:.1f} minutes, peak memory {summary['peak_memory_gib']:.1f} GiB"
    )
    console.print(f"[bold]report: {layout.report}[/bold]")
    if shutil.which("videoseg") is None:
        console.print(f"to call videoseg by its name: . {Path(sys.prefix).resolve() / 'bin' / 'activate'}")


def _nothing(group: Any) -> str:
    return f"{group.baselines['nothing'].mean:.1f}"
