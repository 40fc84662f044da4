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


class World(StrEnum):
    """What the clips are like, see ``videoseg data synthetic --world``."""

    shapes = "shapes"
    badges = "badges"
    twins = "twins"


class Method(StrEnum):
    """What is trained."""

    videoseg_o3 = "videoseg_o3"
    veason_r1 = "veason_r1"


def quickstart(
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the run's files and the report; default: runs/quickstart, or its box twin."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of data, weights and sampling.")] = 0,
    device: Annotated[Device, typer.Option(help="cuda: one GPU, and larger RL steps.")] = Device.cpu,
    rl_steps: Annotated[
        int | None, typer.Option(min=1, help="GRPO steps; a long run is evaluated every 25 of them.")
    ] = None,
    world: Annotated[
        World | None,
        typer.Option(
            help="badges: clips in which exploring pays, the default on a CPU; shapes: eight kinds of expressions, the "
            "default on a GPU and for boxes; twins: pairs of like discs. All have sizes for a GPU."
        ),
    ] = None,
    method: Annotated[
        Method, typer.Option(help="videoseg_o3: a Qwen3-VL with [SEG]; veason_r1: a Qwen2.5-VL that answers boxes.")
    ] = Method.videoseg_o3,
) -> None:
    """The whole pipeline on this machine, small: data, cold start, reinforcement, evaluation, report.

    About 17 minutes on two CPU cores. Read OUT/report.html afterwards. Examples:

      videoseg quickstart

      videoseg quickstart --out runs/again --seed 1

      videoseg quickstart --out runs/long --device cuda --rl-steps 150

      videoseg quickstart --world shapes --out runs/shapes

      videoseg quickstart --method veason_r1
    """
    from rich.console import Console

    from verl_ext.quickstart import QuickstartSettings, run_quickstart

    if method is Method.veason_r1:
        from verl_ext.quickstart.boxes import box_settings

        if world is not None and world is not World.shapes:
            raise typer.BadParameter(f"{world.value} is a world for [SEG] policies, and {method.value} has none")
        settings = box_settings(device.value, rl_steps)
    elif world is World.badges or (world is None and device is Device.cpu):
        from verl_ext.quickstart.exploring import exploring_settings

        settings = exploring_settings(device.value, rl_steps)
    elif world is World.twins:
        from verl_ext.quickstart.twins import twin_settings

        settings = twin_settings(device.value, rl_steps)
    else:
        settings = QuickstartSettings(device=device.value, rl_steps=rl_steps)
    default = "runs/quickstart" if method is Method.videoseg_o3 else f"runs/quickstart_{method.value}"
    run_quickstart(out or Path(default), seed, Console(), settings)
