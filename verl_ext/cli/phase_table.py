"""Where the steps of a finished RL run took their time, as a rich table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from verl_ext.run.phases import step_seconds
from verl_ext.run.run_files import METRICS, read_metrics

if TYPE_CHECKING:
    from rich.console import Console

NAMES = {
    "rollout": "rollout",
    "seg_states": "old log-probs",
    "pool": "masks and rewards (segmenter pool)",
    "reference": "reference log-probs",
    "advantage": "advantages",
    "update": "update",
    "sync": "weights to vLLM",
    "sync_pool": "mask decoder to the pool",
}
WITH_STATES = {"seg_states": "old log-probs and [SEG] states"}
"""Of a policy that says them."""


def print_phases(out: Path, console: Console) -> None:
    """Median seconds and share of each phase of a step, from the run's metrics; nothing where none was timed."""
    from rich.table import Table
    from rich.text import Text

    rows = [row for row in read_metrics(out / METRICS) if "timing_s/step" in row["data"]]
    seconds = step_seconds(rows)
    whole = seconds.pop("step", 0.0)
    if not seconds or not whole:
        return
    counted = max(1, len(rows) - 1)  # the first warms up
    names = NAMES | (WITH_STATES if any("actor/seg/tokens" in row["data"] for row in rows) else {})
    table = Table(title=f"a step, median of {counted}", title_justify="left")
    table.add_column("phase")
    table.add_column("seconds", justify="right")
    table.add_column("share", justify="right")
    for name, value in seconds.items():
        table.add_row(Text(names[name]), f"{value:.1f}", f"{value / whole:.0%}")
    table.add_row("whole step", f"{whole:.1f}", "", style="bold")
    console.print(table)
