"""``videoseg policy``: make a policy to train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Make a policy to train.", no_args_is_help=True)


@app.callback()
def policy() -> None:
    """Make a policy to train."""


@app.command()
def new(
    base: Annotated[Path, typer.Option(help="Qwen3-VL folder, as downloaded.")],
    sam2: Annotated[
        Path, typer.Option("--sam2", "--segmenter", help="SAM 2.1's weights (sam2.1_hiera_large.pt), or SAM 3's.")
    ],
    out: Annotated[Path, typer.Option(help="Policy folder to write; must not exist.")],
    seed: Annotated[int, typer.Option(help="Of the untrained parts.", min=0)] = 0,
) -> None:
    """Make an untrained [SEG] policy: a Qwen3-VL, SAM 2, a new projection between them and the added tokens.

    It is where VideoSEG-O3's first stage starts (recipes/videoseg_o3/sft_*.yaml). Example:

      videoseg policy new --base models/Qwen3-VL-2B-Instruct --sam2 sam2.1_hiera_large.pt --out models/Qwen3-VL-2B-SEG
    """
    from rich.console import Console

    from verl_ext.policy.new import new_policy
    from verl_ext.run.progress import progress_bar

    with progress_bar(Console(stderr=True)) as progress:
        typer.echo(f"policy: {new_policy(base, sam2, out, seed, progress)}")
