"""``videoseg quickstart``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Device(StrEnum):
    """Where the models run."""

    cpu = "cpu"
    cuda = "cuda"


def quickstart(
    out: Annotated[Path, typer.Option(help="Folder for the run's files and the report.")] = Path("runs/quickstart"),
    seed: Annotated[int, typer.Option(help="Of data, weights and sampling.")] = 0,
    device: Annotated[Device, typer.Option(help="cuda: one GPU, and larger RL steps.")] = Device.cpu,
    rl_steps: Annotated[
        int | None, typer.Option(min=1, help="GRPO steps; a long run is evaluated every 25 of them.")
    ] = None,
) -> None:
    """The whole pipeline on this machine, small: data, cold start, reinforcement, evaluation, report.

    About 15 minutes on two CPU cores. Read OUT/report.html afterwards. Examples:

      videoseg quickstart

      videoseg quickstart --out runs/again --seed 1

      videoseg quickstart --out runs/long --device cuda --rl-steps 150
    """
    from rich.console import Console

    from verl_ext.quickstart import QuickstartSettings, run_quickstart

    run_quickstart(out, seed, Console(), QuickstartSettings(device=device.value, rl_steps=rl_steps))
