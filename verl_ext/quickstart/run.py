"""Run the stages one after another, say where it is, and sum up."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verl_ext.quickstart.memory import PeakMemory
from verl_ext.quickstart.settings import Layout, QuickstartSettings

if TYPE_CHECKING:
    from rich.console import Console

STAGE_TITLES = {"untrained": "untrained", "cold_start": "after the cold start", "rl": "after RL"}


def run_quickstart(
    out: Path, seed: int, console: Console, settings: QuickstartSettings | None = None
) -> dict[str, Any]:
    """Data, policy, cold start, RL, evaluation, report; returns what ``summary.json`` holds.

    A second call with the same folder goes on where the first stopped, and does nothing twice.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads cost 5-20x
    from verl_ext.quickstart import stages
    from verl_ext.quickstart.summary import summarise
    from verl_ext.run_report import write_report

    settings = settings or QuickstartSettings()
    layout = Layout(Path(out).resolve())
    layout.out.mkdir(parents=True, exist_ok=True)
    clock = StageClock(layout.out / "seconds.json", console)
    with PeakMemory() as memory:
        with clock.stage("1/7 synthetic clips") as progress:
            stages.make_data(layout, settings, seed, progress)
        with clock.stage("2/7 tiny policy and its SAM 2") as progress:
            stages.build_policy(layout, settings, seed, progress)
        with clock.stage("3/7 segmentation: what a [SEG] state must say") as progress:
            stages.segmentation(layout, settings, seed, progress)
        with clock.stage("4/7 cold start: the dialogue, from traces") as progress:
            cold = stages.cold_start(layout, settings, seed, progress)
        with clock.stage("5/7 reinforcement: GRPO") as progress:
            trained = stages.reinforce(layout, settings, seed, progress)
        policies = {"untrained": layout.untrained, "cold_start": cold, "rl": trained}
        with clock.stage("6/7 evaluation") as progress:
            scores = stages.evaluate_stages(layout, settings, seed, policies, progress)
        with clock.stage("7/7 report"):
            summary = summarise(layout, scores, settings)
            summary |= {"seed": seed, "date": datetime.now(UTC).isoformat(timespec="seconds")}
            summary |= {"seconds": round(clock.total, 1), "stage_seconds": clock.seconds}
            summary |= {"peak_memory_gib": round(max(memory.gib, clock.peak_memory), 2)}
            clock.remember_memory(memory.gib)
            layout.summary.write_text(json.dumps(summary, indent=1) + "\n")
            write_report(layout.out, layout.report)
    _tell(console, layout, summary, scores)
    return summary


class StageClock:
    """Times the stages, shows their bars, and remembers both over restarts."""

    def __init__(self, path: Path, console: Console) -> None:
        self._path, self._console = path, console
        known = json.loads(path.read_text()) if path.exists() else {}
        self.seconds: dict[str, float] = known.get("seconds", {})
        self.peak_memory: float = known.get("peak_memory_gib", 0.0)

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    @contextmanager
    def stage(self, title: str) -> Iterator[Any]:
        """A bar with what is being done; the time is added to what an interrupted run spent before."""
        from verl_ext.cli.progress import progress_bar

        began = time.perf_counter()
        self._console.print(f"[bold]{title}[/bold]")
        try:
            with progress_bar(self._console) as bar:
                yield bar
        finally:
            spent = time.perf_counter() - began
            self.seconds[title] = round(self.seconds.get(title, 0.0) + spent, 1)
            self._write()
        self._console.print(f"    done in {spent:.0f} s")

    def remember_memory(self, gib: float) -> None:
        self.peak_memory = max(self.peak_memory, gib)
        self._write()

    def _write(self) -> None:
        self._path.write_text(json.dumps({"seconds": self.seconds, "peak_memory_gib": self.peak_memory}))


def _tell(console: Console, layout: Layout, summary: dict[str, Any], scores: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(title="J&F on held-out clips")
    table.add_column("expressions")
    for stage in (*(STAGE_TITLES[name] for name in scores), "predict nothing"):
        table.add_column(stage, justify="right")
    table.add_row("all", *(f"{found.jf:.1f}" for found in scores.values()), _nothing(scores["rl"].overall))
    for kind in sorted(scores["rl"].by_kind):
        groups = [found.by_kind[kind] for found in scores.values()]
        table.add_row(kind, *(f"{g.metrics['jf'].mean:.1f}" for g in groups), _nothing(groups[-1]))
    console.print(table)
    console.print(
        f"held-out reward {summary['reward_first']:.2f} -> {summary['reward_last']:.2f} "
        f"(gain {summary['reward_gain']:+.2f} ± {summary['reward_gain_se']:.2f} over the same prompts), "
        f"J&F by RL {summary['jf_gain']:+.1f} ± {summary['jf_gain_se']:.1f}; "
        f"{summary['seconds'] / 60:.1f} minutes, peak memory {summary['peak_memory_gib']:.1f} GiB"
    )
    console.print(f"[bold]report: {layout.report}[/bold]")


def _nothing(group: Any) -> str:
    return f"{group.baselines['nothing'].mean:.1f}"
