"""``videoseg stop``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def stop(
    output_dir: Annotated[Path, typer.Argument(help="The run's output_dir, on a file system that it shares.")],
    wait: Annotated[int, typer.Option(help="Seconds to wait for its end.", min=0)] = 0,
) -> None:
    """Ask a run, on whatever machine it is, to finish its step, save and end.

    The same command that started it goes on with it, with --resume. Examples:

      videoseg stop runs/grpo_4b

      videoseg stop runs/grpo_4b --wait 300
    """
    from verl_ext.run.stop import ask_to_stop, how_it_ended

    ended = ask_to_stop(output_dir, wait)
    if ended:
        typer.echo(f"{output_dir}: {how_it_ended(output_dir) or 'it failed, train.log says why'}")
    else:
        typer.echo(f"{output_dir}: asked; the run finishes its step, saves and ends")
