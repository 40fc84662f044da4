"""``videoseg quickstart``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def quickstart(
    out: Annotated[Path, typer.Option(help="Folder for the run's files and the report.")] = Path("runs/quickstart"),
    seed: Annotated[int, typer.Option(help="Of data, weights and sampling.")] = 0,
) -> None:
    """The whole pipeline on this machine, small: data, cold start, reinforcement, evaluation, report.

    About 15 minutes on two CPU cores. Read OUT/report.html afterwards. Examples:

      videoseg quickstart

      videoseg quickstart --out runs/again --seed 1
    """
    from rich.console import Console

    from verl_ext.quickstart import run_quickstart

    run_quickstart(out, seed, Console())
